"""The engines that `loader_peers` measures: ours and its peers, each built in its own process.

Each process imports its own engine, so that none has another's settings, and simplejpeg can be
hidden before ours is imported.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import types
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

BATCH = 32
SIDE = 300
SSD = {"mode": "stretch", "short_side": SIDE, "long_side": SIDE}
RETINANET = {"mode": "pad", "short_side": 800, "long_side": 1333}
UNTIL_EXIT = ExitStack()
Run = Callable[[], Tensor]  # does the next `BATCH` images
Build = Callable[[argparse.Namespace], Run]


def load_samples(arguments: argparse.Namespace) -> list[Any]:
    """Return the images that have boxes; DALI, which reads the file itself, has the same."""
    from suite.data.assembly import load_dataset
    from suite.data.formats import Location

    location = Location(format="coco", annotations=arguments.annotations, images=arguments.images)
    return [sample for sample in load_dataset(location).samples if len(sample.labels)]


def build_sizing(**rule: Any) -> Any:
    from suite.recipe_sections import Resize
    from suite.sizing import build_sizing

    return build_sizing(Resize(**rule))


def _without_simplejpeg(build: Build, arguments: argparse.Namespace) -> Run:
    sys.modules["simplejpeg"] = None  # type: ignore[assignment]  # as where it is absent
    return build(arguments)


def _build_ours(
    arguments: argparse.Namespace, *, normalise: bool = False, cached: bool = False
) -> Run:
    """Return our path as a loader process walks it; cached: from images decoded before."""
    from suite.data.caching import CacheBuild, keep_decoded
    from suite.data.collating import collate
    from suite.data.preparing import Augmentation, prepare_for_training
    from suite.data.workers import Workers

    samples, sizing = load_samples(arguments), build_sizing(**SSD)
    if cached:
        silent = lambda *_: None  # noqa: E731
        build = CacheBuild(workers=Workers(num=0), say=silent, progress=silent)
        kept = keep_decoded(samples, where="ram", build=build)
        samples, _ = UNTIL_EXIT.enter_context(kept)
    augmentation = Augmentation(crop="all_boxes", crop_factor=1.0, flip=0.5, jitter=True)
    turns = itertools.count()

    def prepare(turn: int) -> Any:
        epoch, index = divmod(turn, len(samples))
        rng = np.random.default_rng([0, epoch, index])
        return prepare_for_training(samples[index], sizing, augmentation=augmentation, rng=rng)

    def run() -> Tensor:
        images = collate([prepare(turn) for turn in itertools.islice(turns, BATCH)]).images
        return images.normalised() if normalise else images.pixels

    return run


def _build_dali(arguments: argparse.Namespace) -> Run:
    """Return a pipeline that does nothing ahead of time: there is no device to overlap with."""
    from nvidia.dali import fn, pipeline_def

    files = {"file_root": str(arguments.images), "annotations_file": str(arguments.annotations)}
    overlaps = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9]
    sides = {"aspect_ratio": [0.5, 2.0], "scaling": [0.3, 1.0]}
    crop = {"thresholds": overlaps, "allow_no_crop": True, "num_attempts": 50} | sides

    def uniform(low: float, high: float) -> Any:
        return fn.random.uniform(range=[low, high])

    @pipeline_def
    def pipeline() -> Any:
        jpegs, boxes, labels = fn.readers.coco(
            **files, ratio=True, ltrb=True, skip_empty=True, shuffle_after_epoch=True
        )
        start, size, boxes, labels = fn.random_bbox_crop(boxes, labels, bbox_layout="xyXY", **crop)
        pixels = fn.decoders.image_slice(jpegs, start, size)
        pixels = fn.color_twist(
            fn.resize(pixels, resize_x=SIDE, resize_y=SIDE),  # antialiased by default
            brightness=uniform(0.875, 1.125),
            contrast=uniform(0.5, 1.5),
            saturation=uniform(0.5, 1.5),
            hue=uniform(-18.0, 18.0),
        )
        mirror = fn.random.coin_flip()
        mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
        pixels = fn.crop_mirror_normalize(pixels, mirror=mirror, mean=mean, std=std)
        return pixels, fn.bb_flip(boxes, ltrb=True, horizontal=mirror), labels

    settings = {"num_threads": 1, "device_id": None, "exec_async": False, "exec_pipelined": False}
    built = pipeline(batch_size=BATCH, seed=0, **settings)
    return lambda: torch.from_dlpack(built.run()[0].as_tensor())


def _build_torchvision(arguments: argparse.Namespace, *, pil: bool, zoom_out: bool = True) -> Run:
    """Return the reference's SSD preset in its v2 form, and what the model does to its input."""
    from torchvision import io, tv_tensors
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.transforms import v2

    fill = dict.fromkeys((tv_tensors.Image, Image.Image), (123, 117, 104))
    transform = v2.Compose(
        [
            v2.RandomPhotometricDistort(),
            *([v2.RandomZoomOut(fill=fill)] if zoom_out else []),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(0.5),
            v2.ToImage(),
            v2.ToDtype(torch.float, scale=True),
            v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )
    mean, std = [0.48235, 0.45882, 0.40784], [1.0 / 255.0] * 3
    size = SIDE, SIDE
    to_batch = GeneralizedRCNNTransform(*size, mean, std, size_divisible=1, fixed_size=size)
    samples = itertools.cycle(load_samples(arguments))

    def decode(path: Path) -> Any:
        if pil:
            return Image.open(path).convert("RGB")
        return tv_tensors.Image(io.decode_jpeg(io.read_file(str(path)), io.ImageReadMode.RGB))

    def prepare(sample: Any) -> Any:
        boxes = torch.from_numpy(sample.boxes_xyxy)
        boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=sample.image_hw)
        target = {"boxes": boxes, "labels": torch.from_numpy(sample.labels)}
        return transform(decode(sample.image.path), target)

    def run() -> Tensor:
        images, targets = zip(*map(prepare, itertools.islice(samples, BATCH)), strict=True)
        return to_batch(list(images), list(targets))[0].tensors

    return run


def _build_mmdetection(arguments: argparse.Namespace, *, expand: bool = True) -> Run:
    """Return the pipeline of its ssd300_coco, and what its model does to the input."""
    # mmcv-lite has no operators; what is imported of them here is never called.
    for name, operator in (("mmcv.ops", "batched_nms"), ("mmcv.ops.roi_align", "roi_align")):
        sys.modules[name] = types.ModuleType(name)
        setattr(sys.modules[name], operator, None)
    import cv2
    from mmcv.transforms import Compose, LoadImageFromFile
    from mmdet.datasets import transforms as mm
    from mmengine.model import ImgDataPreprocessor

    cv2.setNumThreads(0)
    mean = [123.675, 116.28, 103.53]
    transform = Compose(
        [
            LoadImageFromFile(),
            mm.LoadAnnotations(with_bbox=True),
            *([mm.Expand(mean=mean, to_rgb=True, ratio_range=(1, 4))] if expand else []),
            mm.MinIoURandomCrop(min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
            mm.Resize(scale=(SIDE, SIDE), keep_ratio=False),
            mm.RandomFlip(prob=0.5),
            mm.PhotoMetricDistortion(),  # its defaults are those of the config
            mm.PackDetInputs(),
        ]
    )
    to_batch = ImgDataPreprocessor(mean=mean, std=[1, 1, 1], bgr_to_rgb=True, pad_size_divisor=1)
    samples = itertools.cycle(load_samples(arguments))

    def prepare(sample: Any) -> Tensor:
        instances = [
            {"bbox": box, "bbox_label": label, "ignore_flag": 0}
            for box, label in zip(sample.boxes_xyxy.tolist(), sample.labels.tolist(), strict=True)
        ]
        return transform({"img_path": str(sample.image.path), "instances": instances})["inputs"]

    def run() -> Tensor:
        return to_batch({"inputs": list(map(prepare, itertools.islice(samples, BATCH)))})["inputs"]

    return run


def _build_retinanet(arguments: argparse.Namespace, *, ours: bool) -> Run:
    """Return evaluation's path to a picture, uint8 [3,H,W]; Pillow's gives the same form."""
    from suite.data.preparing import prepare_for_evaluation

    samples, sizing = itertools.cycle(load_samples(arguments)), build_sizing(**RETINANET)

    def prepare(sample: Any) -> Tensor:
        if ours:
            return prepare_for_evaluation(sample, sizing).pixels
        height, width = sizing.resized_hw(sample.image_hw)
        image = Image.open(sample.image.path).convert("RGB")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    return lambda: [prepare(sample) for sample in itertools.islice(samples, BATCH)][-1]


_our_uint8 = _build_ours
_our_floats = partial(_build_ours, normalise=True)
_our_retinanet = partial(_build_retinanet, ours=True)
PARTS: dict[str, dict[str, Build]] = {
    "SSD training, 300 px": {
        "ours, uint8": _our_uint8,
        "ours, normalised": _our_floats,
        "ours, cached, uint8": partial(_build_ours, cached=True),
        "ours, Pillow, uint8": partial(_without_simplejpeg, _our_uint8),
        "ours, Pillow, normalised": partial(_without_simplejpeg, _our_floats),
        "DALI": _build_dali,
        "torchvision, tensor": partial(_build_torchvision, pil=False),
        "torchvision, PIL": partial(_build_torchvision, pil=True),
        "torchvision, tensor, no zoom": partial(_build_torchvision, pil=False, zoom_out=False),
        "torchvision, PIL, no zoom": partial(_build_torchvision, pil=True, zoom_out=False),
        "mmdetection": _build_mmdetection,
        "mmdetection, no expand": partial(_build_mmdetection, expand=False),
    },
    "RetinaNet, short side 800": {
        "ours": _our_retinanet,
        "ours, Pillow": partial(_without_simplejpeg, _our_retinanet),
        "Pillow": partial(_build_retinanet, ours=False),
    },
}
