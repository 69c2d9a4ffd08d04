"""Batches onto the device while it computes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from suite.data.collating import Batch
from suite.device import Device


def move_to_device(batches: Generator[Batch], device: Device) -> Generator[Batch]:
    """Yield batches on the device. Closes `batches` when it is closed itself.

    On cuda and npu they are copied on a stream of their own: the host is ahead of the device, so
    the copy of a batch runs beside the step before it. Only pinned memory is copied so.
    """
    stream = device.open_copy_stream()
    with closing(batches):
        for batch in batches:
            if stream is None:
                yield batch.to(device.torch_device)
                continue
            with stream.copying():
                moved = batch.to(device.torch_device)
            stream.hand_over(moved.tensors())
            yield moved
