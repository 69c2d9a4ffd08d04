"""The verb `export`: from a checkpoint to a verified graph and its sidecar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

import suite
from suite.checkpoint import TrainedDetector, load_detector
from suite.data.transforms import MEAN, STD
from suite.deploy.graph import IR_VERSION, OPSET, Nms, build_graph
from suite.deploy.verify import Parity, measure_parity
from suite.errors import CheckFailed, InputError, UsageError
from suite.files import file_sha256, replacing, write_text
from suite.recipe import recipe_digest
from suite.runtime import postprocess_parameters


def export(
    checkpoint: Path,
    *,
    output: Path | None = None,
    nms: Nms = "op",
    images: Sequence[Path] = (),
    force: bool = False,
) -> tuple[Path, Parity]:
    """Write `<checkpoint>.onnx` and its sidecar, after proving that it equals the checkpoint.

    Args:
        checkpoint: the .pth file.
        output: another name for the graph.
        nms: "op" puts the postprocess into the graph, "none" leaves raw heads.
        images: photos for the end-to-end comparison.
        force: replace an existing file.

    Returns:
        The graph's path and its parity figures.

    Raises:
        InputError: the checkpoint is unusable.
        UsageError: the target exists.
        CheckFailed: the graph differs from the checkpoint; nothing stands at the target name.
    """
    output = output or checkpoint.with_suffix(".onnx")
    if output.exists() and not force:
        raise UsageError(f"{output}: exists already; pass --force to replace it")
    trained = load_detector(checkpoint)
    _require_finite(trained, checkpoint)
    metadata = describe_graph(trained, nms=nms)
    model = build_graph(
        trained.detector, postprocess_parameters(trained.recipe), nms=nms, metadata=metadata
    )
    with replacing(output) as temporary:
        onnx.save_model(model, str(temporary))
        parity = measure_parity(temporary, trained, images=images)
        if parity.failures():
            raise CheckFailed(
                f"{checkpoint}: the graph is not the checkpoint: {'; '.join(parity.failures())}"
            )
        sidecar = {
            **metadata,
            "sha256": file_sha256(temporary),
            "parity": parity.as_dict() | {"onnxruntime": onnxruntime.__version__},
        }
    write_text(output.with_name(output.name + ".json"), json.dumps(sidecar, indent=2) + "\n")
    return output, parity


def describe_graph(trained: TrainedDetector, *, nms: Nms) -> dict[str, Any]:
    """Return the metadata of a graph: all a stranger needs to feed it and to read its answer."""
    recipe = trained.recipe
    return {
        "schema": "suite.graph/1",
        "detector": recipe.detector.name,
        "width": recipe.detector.width,
        "num_classes": recipe.detector.num_classes,
        "class_names": list(trained.class_names),
        "category_ids": list(trained.category_ids),
        "image_hw": list(trained.detector.image_hw),  # type: ignore[arg-type]  # Module attributes are untyped
        "input": {
            "name": "images",
            "layout": "NCHW",
            "dtype": "float32",
            "colour": "RGB",
            "scale": 1 / 255,
            "mean": MEAN.tolist(),
            "std": STD.tolist(),
            "resize": "bilinear, antialiased, half-pixel centres, aspect ratio not kept",
        },
        "boxes": "xyxy in pixels of the input; multiply by original size / image_hw",
        "padding": "unused rows hold box 0, score 0, label -1; num_dets counts the used ones",
        "postprocess": asdict(postprocess_parameters(recipe)),
        "nms": nms,
        "precision": "fp32",
        "opset": OPSET,
        "ir_version": IR_VERSION,
        "recipe": recipe.name,
        "recipe_digest": recipe_digest(recipe),
        "checkpoint_sha256": trained.sha256,
        "step": trained.step,
        "software": {
            "suite": suite.__version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
        },
    }


def _require_finite(trained: TrainedDetector, checkpoint: Path) -> None:
    for name, tensor in trained.detector.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{checkpoint}: '{name}' holds NaN or infinity; it cannot be exported")
