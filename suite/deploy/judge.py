"""What a graph's AP is on a data set, for those that `quantize` chooses from.

AP is COCO's, a fraction. What is judged is the very file that may be written.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from suite.data.sample import Dataset
from suite.data.workers import Workers
from suite.deploy.graph import describe_in
from suite.device import build_device
from suite.errors import UsageError
from suite.evaluation import evaluate
from suite.evaluation.model import require_same_classes
from suite.graph_file import GraphFile
from suite.graph_metadata import Calibration
from suite.progress import Progress
from suite.recipe import Recipe
from suite.runtime import load_detect


@dataclass(frozen=True, kw_only=True)
class Point:
    """One graph of a frontier.

    Attributes:
        path: where its file stands for now.
        sha256: of the file.
        float_nodes: its convolutions that stay float.
        num_float: how many they are.
        latency_ms: of a call; None: not timed, because it was not to be chosen.
    """

    path: Path
    sha256: str
    float_nodes: tuple[str, ...]
    num_float: int
    size_bytes: int
    ap: float
    latency_ms: float | None = None

    def describe(self) -> dict[str, Any]:
        """Return what a record says of it."""
        plain = asdict(self)
        del plain["path"]
        return plain


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Evaluates a graph and what is made of it, all on the same images.

    Attributes:
        model: the fp32 graph's file.
        graph: what is in it.
        recipe: whose val split it is.
        dataset: that split.
        workers: that load its images.
        batch: images a call, where a graph does not fix them.
        calibration: of all int8 graphs; without float nodes.
        folder: where int8 graphs are put.
        progress: in images, over all evaluations.
    """

    model: Path
    graph: GraphFile
    recipe: Recipe
    dataset: Dataset
    workers: Workers
    batch: int
    calibration: Calibration
    folder: Path
    progress: Progress

    def judge_before(self) -> Point:
        """Judge the fp32 graph.

        Raises:
            UsageError: it finds nothing, or there is nothing to find.
        """
        before = self._judge(self.model, (), label="fp32", number=0)
        if not before.ap > 0:
            raise UsageError(
                f"{self.model}: AP is {before.ap:g} on {len(self.dataset.samples)} images of "
                f"{self.recipe.data.name}; there is nothing to lose, so any budget would hold"
            )
        return before

    def judge(
        self, quantised: onnx.ModelProto, float_nodes: tuple[str, ...], *, number: int
    ) -> Point:
        """Judge an int8 graph as it would be written; `number` counts them from 1."""
        described = replace(
            self.graph.metadata, precision="int8", calibration=self.calibration_of(float_nodes)
        )
        describe_in(quantised, described)
        path = self.folder / f"{number}.onnx"
        path.write_bytes(quantised.SerializeToString(deterministic=True))
        label = f"int8, {len(float_nodes)} float"
        return self._judge(path, float_nodes, label=label, number=number)

    def calibration_of(self, float_nodes: tuple[str, ...]) -> Calibration:
        """Return what the metadata of an int8 graph say."""
        return replace(self.calibration, float_nodes=float_nodes)

    def _judge(self, path: Path, float_nodes: tuple[str, ...], *, label: str, number: int) -> Point:
        loaded = load_detect(path, device=build_device("cpu", "fp32"))
        require_same_classes(loaded, self.dataset, self.model)
        done = number * len(self.dataset.samples)
        evaluation, _ = evaluate(
            loaded.detect,
            self.dataset,
            sizing=loaded.sizing,
            batch_size=self.graph.metadata.batch or self.batch,
            workers=self.workers,
            progress=lambda images: self.progress.update(done + images, label),
        )
        content = path.read_bytes()
        point = Point(
            path=path,
            sha256=hashlib.sha256(content).hexdigest(),
            float_nodes=float_nodes,
            num_float=len(float_nodes),
            size_bytes=len(content),
            ap=evaluation.ap or 0.0,
        )
        self.progress.print(f"{label} convolutions: AP {100 * point.ap:.2f}")
        return point
