"""The lines of the Ascend ModelZoo's logs by which test farms find speed, loss and accuracy.

Shapes as in the README of its SSD-ResNet34 for TensorFlow (the steps) and in the test scripts of
its RetinaNet for PyTorch (the end). `suite.evaluation.coco` has the line of an evaluation.
"""

from __future__ import annotations

import math

import numpy as np


def step_lines(step: int, speed: float, *, lr: float, loss: float | None) -> tuple[str, str]:
    """Return what the Ascend ModelZoo's SSD-ResNet34 logs every so many steps.

    Args:
        step: number of steps done.
        speed: images a second of all devices together.
        lr: learning rate.
        loss: mean; None where all steps were skipped.
    """
    # Digits as float32 has them, in which that log computes.
    rate, value = np.float32(lr), np.float32(math.nan if loss is None else loss)
    return f"global_step...{step}", f"FPS: {speed:.2f}, learning rate: {rate!s}, loss: {value!s}"


def final_lines(
    *, images_per_second: float | None, accuracy: float | None, seconds: float
) -> list[str]:
    """Return what the Ascend ModelZoo's scripts print at the end; nothing for what is not known.

    Args:
        images_per_second: of all devices together.
        accuracy: AP as a fraction.
        seconds: of the whole call.
    """
    lines = []
    if images_per_second is not None:
        lines.append(f"Final Performance images/sec : {images_per_second:.2f}")
    if accuracy is not None:
        lines.append(f"Final Train Accuracy : {accuracy:.4f}")
    return [*lines, f"E2E Training Duration sec : {seconds:.0f}"]
