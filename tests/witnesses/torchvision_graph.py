"""Measure our exported RetinaNet against torchvision's own export of the same weights.

Run by hand, where torchvision 0.28 is installed beside torch 2.13 and this project's needs:

    PYTHONPATH=. python tests/witnesses/torchvision_graph.py --backbone resnet50.pth PHOTO...

Both graphs have NMS inside, run in ONNX Runtime on the CPU with equal threads, and start from the
same decoded photo of the network's size; making its input counts on both sides. They take turns in
blocks. The heads are random, spread so that some thousand candidates pass the threshold, as on a
photo full of objects: torchvision publishes trained weights, which are not needed for this.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torchvision.models.detection import retinanet_resnet50_fpn

from suite.bench.calm import Watch
from suite.bench.stable import NUM_BLOCKS, interleave, judge
from suite.checkpoint import load_detector
from suite.deploy.description import GraphRequest
from suite.deploy.graph import build_graph
from suite.graph_file import INPUT_NAME, OUTPUT_NAMES
from suite.graph_session import GraphRuntime, open_graph
from suite.zoo import Options, import_weights

_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
_STD = np.array((0.229, 0.224, 0.225), np.float32)
_LOGIT_STD = 0.5  # around -4.6; a score of 0.05 is at -2.9
Run = Callable[[], int]


def main() -> None:
    """Measure and print the ratio with its interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True, help="ImageNet weights of a ResNet-50")
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3, help="in each block")
    parser.add_argument("photo")
    arguments = parser.parse_args()
    side = arguments.side
    with Image.open(arguments.photo) as opened:
        photo = np.asarray(opened.convert("RGB").resize((side, side)))
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = _open_both(Path(folder), photo, arguments)
        print(f"detections: torchvision {theirs()}, ours {ours()}")
        ours(), theirs()
        watch = Watch()

        def block(run: Run) -> float:
            watch.look()
            seconds = []
            for _ in range(arguments.runs):
                started = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - started)
            return float(np.median(seconds))

        a, b = interleave([lambda: block(theirs), lambda: block(ours)])
        calm = watch.finish()
    verdict = judge(a, b)
    conditions = {
        "torchvision": torchvision.__version__,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "threads": arguments.threads,
        "side": side,
        "blocks": NUM_BLOCKS,
        "runs_in_each": arguments.runs,
        **calm.as_conditions(),
    }
    for name, found in (("torchvision", verdict.a), ("ours", verdict.b)):
        low, high = 1000 * found.low, 1000 * found.high
        print(f"{name}: {1000 * found.median:.1f} ms ({low:.1f} to {high:.1f})")
    ratio = verdict.ratio
    print(f"ours is {ratio.median:.3f} times as fast ({ratio.low:.3f} to {ratio.high:.3f})")
    print(json.dumps({"conditions": conditions, "ratio": ratio.median}))


def _open_both(folder: Path, photo: NDArray[np.uint8], arguments: argparse.Namespace) -> list[Run]:
    side, threads = arguments.side, arguments.threads
    model = _build_theirs(arguments)
    torch.save(model.state_dict(), folder / "theirs.pth")
    checkpoint = folder / "ours.pth"
    import_weights(
        folder / "theirs.pth",
        source="torchvision",
        output=checkpoint,
        options=Options(batch_norm_eps=1e-5),
    )
    graph = build_graph(
        load_detector(checkpoint), GraphRequest(size=(side, side), max_detections=100)
    )
    torch.onnx.export(
        model,
        ([torch.zeros(3, side, side)],),
        folder / "theirs.onnx",
        opset_version=17,
        dynamo=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        folder / "theirs.onnx", options, providers=["CPUExecutionProvider"]
    )
    run = open_graph(
        graph.SerializeToString(),
        source="ours",
        runtime=GraphRuntime(threads=threads),
    )
    (name,) = (put.name for put in session.get_inputs())

    def theirs() -> int:
        pixels = photo.astype(np.float32).transpose(2, 0, 1) / 255
        return len(session.run(None, {name: np.ascontiguousarray(pixels)})[0])

    def ours() -> int:
        pixels = ((photo.astype(np.float32) / 255 - _MEAN) / _STD).transpose(2, 0, 1)[None]
        return int(run(OUTPUT_NAMES, {INPUT_NAME: np.ascontiguousarray(pixels)})[3].sum())

    return [theirs, ours]


def _build_theirs(arguments: argparse.Namespace) -> torch.nn.Module:
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        min_size=arguments.side,
        max_size=arguments.side,
        detections_per_img=100,
    )
    backbone = torch.load(arguments.backbone, weights_only=True)
    model.backbone.body.load_state_dict(backbone, strict=False)
    _spread_scores(model.eval(), arguments.side)
    return model


@torch.no_grad()
def _spread_scores(model: torch.nn.Module, side: int) -> None:
    """Let some thousand of the candidates pass the threshold."""
    head = model.head.classification_head
    head.cls_logits.weight.normal_()
    features = list(model.backbone(torch.randn(1, 3, side, side)).values())
    logits = head(features) - head.cls_logits.bias[0]
    head.cls_logits.weight.mul_(_LOGIT_STD / logits.std())


if __name__ == "__main__":
    main()
