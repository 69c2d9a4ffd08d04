"""Measure the data path of training against DALI's, torchvision's and mmdetection's on one core.

Run by hand, in an environment of its own, on COCO photos as they were published:

    python -m venv peers
    peers/bin/pip install torch==2.13.0 torchvision==0.28.0 numpy Pillow PyYAML tabulate click \\
        simplejpeg astunparse gast six packaging makefun optree nvtx libcst dm-tree addict yapf \\
        termcolor rich regex tqdm requests terminaltables shapely scipy matplotlib pycocotools \\
        opencv-python-headless setuptools wheel
    peers/bin/pip install --no-deps nvidia-dali-cuda130==2.4.0 nvidia-nvimgcodec-cu13 \\
        nvidia-libnvcomp-cu13 mmdet==3.3.0 mmengine==0.10.7
    peers/bin/pip install --no-deps --no-build-isolation mmcv-lite==2.1.0
    PYTHONPATH=. peers/bin/python tests/witnesses/loader_peers.py ANNOTATIONS IMAGES

Each engine does all that SSD needs, from JPEG files to a batch of 32 for the network, on one thread
in a process of its own; all are bound to one core and take turns. What counts is the time that an
engine's process spent computing since its last turn ended, so nothing done ahead is free. Prints
medians over the rounds, their extremes, and how many times as fast ours is; then how near our
pixels come to an antialiased resize in floats; last all of it as one JSON line.

Like for like: DALI crops, jitters and normalises as we do with "normalised"; with "uint8" the
affine is left to the device. torchvision's and mmdetection's presets also put half of the images
on a larger canvas, so both are measured with and without that.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from loader_engines import BATCH, PARTS, SIDE, SSD, build_sizing, load_samples
from numpy.typing import NDArray
from PIL import Image
from tabulate import tabulate
from torch import Tensor

WARMUP_BATCHES = 2
NUM_JUDGED = 20  # photos
PACKAGES = "torch torchvision nvidia-dali-cuda130 mmdet mmcv-lite opencv-python-headless simplejpeg"
Rates = dict[str, list[float]]  # of each engine, images a second in each round


def main() -> None:
    """Measure both paths and our quality, and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("annotations", type=Path, help="COCO JSON file")
    parser.add_argument("images", type=Path, help="folder of its images, JPEG files")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=5, help="in each turn of an engine")
    parser.add_argument("--only", default="", help="engines whose names contain one of A|B")
    parser.add_argument("--tune-all", action="store_true", help="the peers get our allocator too")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # child processes inherit it
    conditions = {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES.split()},
        "photos": len(load_samples(arguments)),
        "load_before": os.getloadavg()[0],
    } | {key: getattr(arguments, key) for key in ("rounds", "batches", "tune_all")}
    rates = {part: _measure(part, arguments) for part in PARTS}
    ratios = {part: _print_rates(part, of_engine) for part, of_engine in rates.items()}
    decibels = _judge_pixels(arguments)
    rows = [(what, *values) for what, values in decibels.items()]
    print(tabulate(rows, ["PSNR of ours, dB", "mean", "lowest"], floatfmt=".2f"))
    conditions["load_after"] = os.getloadavg()[0]
    results = {"images_s_core": rates, "ours_over": ratios, "psnr_db": decibels}
    print(json.dumps({"conditions": conditions} | results))


def _print_rates(part: str, rates: Rates) -> dict[str, dict[str, float]]:
    """Return, for each peer, the median of each of ours as a multiple of its own."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ours = [name for name in rates if name.startswith("ours")]
    peers = [name for name in rates if name not in ours]
    ratios = {peer: {our: round(medians[our] / medians[peer], 3) for our in ours} for peer in peers}
    rows = [
        (name, medians[name], min(values), max(values), *ratios.get(name, {}).values())
        for name, values in rates.items()
    ]
    headers = [part, "images/s\n/core", "min", "max", *(f"{name}\n/ this" for name in ours)]
    formats = ["", ".0f", ".0f", ".0f", *[".2f"] * len(ours)]
    print(tabulate(rows, headers, floatfmt=formats), end="\n\n")
    return ratios


def _measure(part: str, arguments: argparse.Namespace) -> Rates:
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in PARTS[part]:
        if not any(part in name for part in arguments.only.split("|")):
            continue
        pipes[name], far_end = context.Pipe()
        process = context.Process(target=_serve, args=(far_end, part, name, arguments), daemon=True)
        process.start()
        far_end.close()  # a process that fails then ends our waiting
        processes.append(process)
        print(f"{part}, {name}: {pipes[name].recv()}", flush=True)
    rates: Rates = {name: [] for name in pipes}
    for _ in range(arguments.rounds):
        for name, pipe in pipes.items():
            pipe.send("run")
            rates[name].append(pipe.recv())
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send("stop")
        process.join()
    return rates


def _serve(pipe: Connection, part: str, name: str, arguments: argparse.Namespace) -> None:
    """Build an engine, warm it up, then do a turn for each request."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # mmdetection draws from it
    if name.startswith("ours") or arguments.tune_all:
        from suite.device import tune_cpu_allocator

        tune_cpu_allocator()
    run = PARTS[part][name](arguments)
    for _ in range(WARMUP_BATCHES):
        last = run()
    deviation, mean = torch.std_mean(last.float())
    pipe.send(f"{last.dtype} {list(last.shape)}, mean {mean:.2f}, deviation {deviation:.2f}")
    spent = time.process_time()
    while pipe.recv() == "run":
        for _ in range(arguments.batches):
            run()
        spent, before = time.process_time(), spent
        pipe.send(round(arguments.batches * BATCH / (spent - before), 1))


def _judge_pixels(arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Return the mean and the lowest PSNR of whole images and of training crops, in dB."""
    from suite.data.preparing import Augmentation, prepare_for_evaluation, prepare_for_training
    from suite.data.transforms import choose_crop

    sizing = build_sizing(**SSD)
    augmentation = Augmentation(crop="all_boxes", crop_factor=1.0, flip=0.0, jitter=False)
    decibels = defaultdict(list)
    for sample in load_samples(arguments)[:NUM_JUDGED]:
        image = np.asarray(Image.open(sample.image.path).convert("RGB"), np.float64)
        pixels = prepare_for_evaluation(sample, sizing).pixels
        decibels["whole image"].append(_psnr(pixels, image))
        # The crop is the first thing that is drawn.
        rng, same_rng = (np.random.default_rng(sample.image_id) for _ in range(2))
        x0, y0, x1, y1 = choose_crop(
            same_rng, sample.boxes_xyxy, image_hw=sample.image_hw, rule="all_boxes", factor=1.0
        )
        pixels = prepare_for_training(sample, sizing, augmentation=augmentation, rng=rng).pixels
        decibels["training crop"].append(_psnr(pixels, image[y0:y1, x0:x1]))
    return {name: (statistics.mean(values), min(values)) for name, values in decibels.items()}


def _resize_exactly(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Resize [H,W,3] to [3,300,300]: triangle filter, as wide as the scale, nothing rounded."""
    rows, columns = (_triangle_weights(side) for side in image.shape[:2])
    return np.asarray(np.einsum("yh,hwc,xw->cyx", rows, image, columns, optimize=True))


def _triangle_weights(length: int) -> NDArray[np.float64]:
    """Return [300,length]; each row sums to 1."""
    scale = length / SIDE
    centres = (np.arange(SIDE) + 0.5) * scale
    distances = np.abs(np.arange(length) + 0.5 - centres[:, None])
    weights = (1 - distances / max(scale, 1.0)).clip(min=0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _psnr(pixels: Tensor, image: NDArray[np.float64]) -> float:
    error = pixels.double().numpy() - _resize_exactly(image)
    return float(10 * np.log10(255**2 / np.square(error).mean()))


if __name__ == "__main__":
    main()
