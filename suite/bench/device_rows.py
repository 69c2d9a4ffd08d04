"""A full-size detector with random weights, timed on generated images without a loader."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from statistics import median
from typing import Literal

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.structures import Images, Target
from suite.bench.energy import measured_energy
from suite.checkpoint import build_recipe_detector
from suite.data.collating import Batch
from suite.data.transforms import normalisation_affine
from suite.device import Device
from suite.device_failures import FEWER_TO_TRAIN, explaining_failures
from suite.recipe import Recipe, load_recipe
from suite.runtime import postprocess_parameters, torch_detect
from suite.training.loop import build_learner, train_step
from suite.training.optim import Updater

FEWEST_RUNS = 3
_WARMUP_S = 0.5
_MOST_RUNS = 30
_BOXES_PER_IMAGE = 7  # COCO's mean is 7.3
_LEARNING_RATE = 1e-4
# The published input of each detector; RetinaNet's padded to what both orientations fit in.
_RECIPES = {"ssd_r34": "ssd_r34_1p", "retinanet_r50_fpn": "retinanet_r50_fpn_1p"}
_IMAGE_HW = {"ssd_r34": (300, 300), "retinanet_r50_fpn": (800, 1344)}


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What one batch takes.

    Attributes:
        seconds: median of the counted runs.
        peak_memory_bytes: None on a CPU, where nothing resets it.
        detections_per_image: None of training.
        joules_per_image: None where no sensor tells.
    """

    batch: int
    runs: int
    seconds: float
    peak_memory_bytes: int | None
    joules_per_image: float | None
    detections_per_image: float | None = None

    @property
    def images_per_second(self) -> float:
        """Images a second of this device."""
        return self.batch / self.seconds


@dataclass(frozen=True)
class Subject:
    """A detector's recipe on a device."""

    recipe: Recipe
    image_hw: tuple[int, int]
    device: Device

    def flops_per_image(self, mode: Literal["infer", "train"]) -> int:
        """Return the operations of the network for an image, backward included for training."""
        return _count_flops(self.recipe, self.image_hw, mode)

    def infer(self, batch: int, seconds: float) -> Timed:
        """Time detection on images in the host's memory.

        Raises:
            MissingEnvironment: the device's memory is too small, or it lacks an operator.
        """
        torch.manual_seed(0)
        detector = build_recipe_detector(self.recipe)
        parameters = postprocess_parameters(self.recipe)
        detect = torch_detect(detector, parameters, self.device)
        images = _draw_images(batch, self.image_hw)
        counts: list[int] = []

        def run() -> None:
            counts[:] = [len(found.scores) for found in detect(images)]

        timed = _time(run, batch, seconds, self.device)
        return replace(timed, detections_per_image=sum(counts) / batch)

    def train(self, batch: int, seconds: float) -> Timed:
        """Time optimizer steps on a batch that stays on the device.

        Raises:
            MissingEnvironment: as `infer`.
        """
        torch.manual_seed(0)
        device = self.device
        with explaining_failures(device, holding=f"{batch} images", remedy=FEWER_TO_TRAIN):
            detector = build_recipe_detector(self.recipe)
            device.take(detector)
            detector.train()
            updater = Updater(
                detector,
                self.recipe.optimizer,
                learning_rate=lambda _: _LEARNING_RATE,
                device=device,
            )
            learner = build_learner(detector, device, network=detector)
            drawn = _draw_batch(batch, self.image_hw, self.recipe.detector.num_classes)
            resident = drawn.to(device.torch_device)

            def run() -> None:
                train_step(resident, learner, updater)

            return _time(run, batch, seconds, device)


def open_subject(detector: str, device: Device) -> Subject:
    """Return a detector of 80 classes at its published size."""
    return Subject(load_recipe(_RECIPES[detector]), _IMAGE_HW[detector], device)


@cache
def _count_flops(recipe: Recipe, image_hw: tuple[int, int], mode: Literal["infer", "train"]) -> int:
    """Count on the meta device, where nothing is computed; a multiply-add is two operations."""
    with torch.device("meta"):
        detector = build_recipe_detector(recipe).train(mode == "train")
        with FlopCounterMode(display=False) as counter:
            outputs = detector(torch.empty(1, 3, *image_hw))
            if mode == "train":
                # The losses do no products.
                torch.autograd.backward(outputs.logits.sum() + outputs.deltas.sum())
    flops: int = counter.get_total_flops()
    return flops


def _draw_images(number: int, image_hw: tuple[int, int]) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (number, 3, *image_hw), dtype=torch.uint8, generator=generator)
    sizes = torch.tensor([image_hw]).expand(number, 2)
    affine = torch.from_numpy(normalisation_affine()).expand(number, 3, 4)
    return Images(pixels, affine, sizes, sizes)


def _draw_batch(number: int, image_hw: tuple[int, int], num_classes: int) -> Batch:
    """Draw noise with boxes of 16 pixels to half the image."""
    rng = np.random.default_rng(0)
    size = np.array([image_hw[1], image_hw[0]])
    sides = 16 + rng.random((number, _BOXES_PER_IMAGE, 2)) * (size / 2 - 16)
    low = rng.random(sides.shape) * (size - sides)
    boxes_xyxy = torch.from_numpy(np.concatenate([low, low + sides], axis=-1).astype(np.float32))
    labels = torch.from_numpy(rng.integers(num_classes, size=sides.shape[:2]))
    return Batch(_draw_images(number, image_hw), Target(boxes_xyxy, labels), tuple(range(number)))


def _time(run: Callable[[], None], batch: int, seconds: float, device: Device) -> Timed:
    """Time runs for so many seconds, after some that do not count."""
    device.reset_peak_memory()
    taken: list[float] = []

    def one() -> None:
        started = time.perf_counter()
        run()
        device.synchronize()
        taken.append(time.perf_counter() - started)

    while sum(taken) < _WARMUP_S:  # picks kernels, fills caches, raises clocks
        one()
    taken.clear()
    with measured_energy(device) as energy:
        ends = time.perf_counter() + seconds
        while len(taken) < FEWEST_RUNS or (len(taken) < _MOST_RUNS and time.perf_counter() < ends):
            one()
    num_images = batch * len(taken)
    return Timed(
        batch=batch,
        runs=len(taken),
        seconds=median(taken),
        # A CPU process keeps the peak of what ran before.
        peak_memory_bytes=None if device.kind == "cpu" else device.peak_memory_bytes(),
        joules_per_image=None if energy.joules is None else energy.joules / num_images,
    )
