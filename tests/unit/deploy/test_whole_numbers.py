"""Places of candidates are whole numbers in a graph too, however many there are."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from models.boxes import cxcywh_to_xyxy
from models.postprocess import select_level_candidates
from models.structures import HeadOutputs


class Stage(torch.nn.Module):
    """Candidates of one level, as they are exported within a detector."""

    def __init__(self, anchors_cxcywh: Tensor) -> None:
        super().__init__()
        self.register_buffer("anchors_cxcywh", anchors_cxcywh)
        self.anchors_cxcywh: Tensor

    def forward(self, logits: Tensor, deltas: Tensor) -> tuple[Tensor, ...]:
        return select_level_candidates(
            [HeadOutputs(logits, deltas)], [self.anchors_cxcywh], scales=(1.0, 1.0), pre_topk=4
        )


def test_places_beyond_float32s_whole_numbers_are_divided_exactly(tmp_path: Path) -> None:
    num_anchors, num_classes, anchor = 2060, 8191, 2051
    place = anchor * num_classes + num_classes - 1  # of the anchor's last class
    assert place > 2**24
    # In float32 this place is that of the next anchor's first class.
    assert int(np.floor(np.float32(place) / np.float32(num_classes))) == anchor + 1

    anchors_cxcywh = torch.full((num_anchors, 4), 10.0)
    anchors_cxcywh[:, 0] = torch.arange(num_anchors) * 20.0
    logits = torch.full((1, num_anchors, num_classes), -9.0)
    for rank, (row, label) in enumerate(
        [(anchor, num_classes - 1), (anchor, 0), (3, 5), (2059, 1)]
    ):
        logits[0, row, label] = 4.0 - rank
    heads = logits, torch.zeros(1, num_anchors, 4)
    stage = Stage(anchors_cxcywh).eval()
    path = tmp_path / "stage.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            stage, heads, dynamo=True, opset_version=18, input_names=["logits", "deltas"]
        )
    assert program is not None
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"logits": logits.numpy(), "deltas": heads[1].numpy()})
    wanted_boxes = cxcywh_to_xyxy(anchors_cxcywh[[anchor, anchor, 3, 2059]])
    for boxes_xyxy, scores, labels in (found, [part.numpy() for part in stage(*heads)]):
        assert labels.tolist() == [[num_classes - 1, 0, 5, 1]]
        np.testing.assert_allclose(boxes_xyxy[0], wanted_boxes)
        assert (np.diff(scores[0]) < 0).all()
