"""How many rows the targets of a batch have: few sizes, or one for all batches of a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suite.data.collating import collate, count_box_rows
from suite.data.preparing import Example


def make_example(num_boxes: int) -> Example:
    corners = np.arange(num_boxes, dtype=np.float32)[:, None]
    return Example(
        pixels=torch.zeros(3, 8, 8, dtype=torch.uint8),
        affine=np.zeros((3, 4), np.float32),
        boxes_xyxy=corners + np.float32([0, 0, 2, 3]),
        labels=np.arange(num_boxes),
        original_hw=(8, 8),
        canvas_hw=(8, 8),
        image_id=num_boxes,
    )


@pytest.mark.parametrize(
    ("most_boxes", "rows"), [(0, 32), (1, 32), (32, 32), (33, 64), (64, 64), (65, 96)]
)
def test_rows_go_up_in_steps_of_32(most_boxes: int, rows: int) -> None:
    assert count_box_rows(most_boxes) == rows
    assert collate([make_example(0), make_example(most_boxes)]).target.labels.shape == (2, rows)


@pytest.mark.parametrize("counts", [[0], [3, 1], [70]])
def test_all_batches_of_a_run_can_have_targets_of_one_shape(counts: list[int]) -> None:
    rows = count_box_rows(70)
    target = collate([make_example(count) for count in counts], box_rows=rows).target
    assert target.boxes_xyxy.shape == (len(counts), 96, 4)
    for labels, boxes, count in zip(target.labels, target.boxes_xyxy, counts, strict=True):
        assert labels.tolist() == [*range(count), *[-1] * (96 - count)]
        assert boxes[:count, 3].tolist() == [3.0 + box for box in range(count)]
        assert not boxes[count:].any()


def test_no_box_is_ever_cut_off() -> None:
    with pytest.raises(AssertionError, match="33 boxes do not fit into 32 rows"):
        collate([make_example(33)], box_rows=32)
