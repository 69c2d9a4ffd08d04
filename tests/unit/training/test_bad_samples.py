"""How many bad samples a run puts up with."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

import pytest

from suite.data.collating import Batch
from suite.data.sample import BadSample
from suite.errors import InputError
from suite.training.bad_samples import BadSamples


def batches(*image_ids: int) -> Generator[Batch]:
    for image_id in image_ids:
        bad = (BadSample(image_id, f"{image_id}.jpg: cut short"),)
        yield cast(Batch, type("Batch", (), {"bad_samples": bad})())


def watch(limit: float, *image_ids: int) -> tuple[int, list[str]]:
    said: list[str] = []
    counted = BadSamples(limit=limit, num_samples=100, say=said.append)
    for _ in counted.watch(batches(*image_ids)):
        pass
    return len(counted.state()), said


@pytest.mark.parametrize("count", [29, 57, 58])
def test_exactly_the_limit_is_allowed(count: int) -> None:
    assert watch(count / 100, *range(count))[0] == count
    with pytest.raises(InputError, match=rf"^{count + 1} of 100 training images cannot be read"):
        watch(count / 100, *range(count + 1))


def test_each_is_told_and_counted_once() -> None:
    num_bad, said = watch(0.5, 7, 7, 3)
    assert num_bad == 2
    assert said == [
        "image 7 is replaced: 7.jpg: cut short",
        "image 3 is replaced: 3.jpg: cut short",
    ]


def test_a_lower_limit_holds_for_what_is_restored() -> None:
    state: list[dict[str, Any]] = [{"image_id": n, "reason": "r"} for n in range(3)]
    BadSamples(limit=0.03, num_samples=100, say=print).restore(state)
    with pytest.raises(InputError, match="3 of 100 training images"):
        BadSamples(limit=0.02, num_samples=100, say=print).restore(state)
