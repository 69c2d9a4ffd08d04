"""Two small detectors as graphs, pictures to feed them, and packages from npm."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from suite.checkpoint import load_detector
from suite.deploy.description import GraphRequest
from suite.deploy.graph import build_graph
from suite.graph_file import GraphFile, load_graph
from tests.once import build_once
from tests.unit.conftest import small_checkpoint, small_photos, small_retinanet

__all__ = ["small_checkpoint", "small_photos", "small_retinanet"]

NPM_PACKAGES = ("onnxruntime-node@1.30.0", "onnxruntime-web@1.30.0", "axe-core@4.14.1")
# With the images' preparation outside of the graph and inside.
KINDS = ("ssd", "retinanet", "ssd_bytes", "retinanet_bytes")


@dataclass(frozen=True)
class Subject:
    """A graph and the size of the images it is fed with."""

    path: Path
    graph: GraphFile
    image_hw: tuple[int, int]

    def feed(self, num_images: int) -> NDArray[np.generic]:
        """Return smooth random images as the graph takes them, the first of them of one grey."""
        generator = torch.Generator().manual_seed(5)
        coarse = torch.rand(num_images, 3, 7, 9, generator=generator)
        coarse[0, :, :4] = 0.5
        smooth = torch.nn.functional.interpolate(coarse, size=self.image_hw, mode="bilinear")
        if self.graph.metadata.prepares_images:
            return (smooth * 255).permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()
        images: NDArray[np.float32] = ((smooth - 0.45) / 0.225).numpy()
        return images


@pytest.fixture(scope="session")
def subjects(
    small_checkpoint: Path, small_retinanet: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Subject]:
    """Export a detector by the name of its kind, once each; every graph has a free batch."""
    folder = tmp_path_factory.mktemp("subjects")
    made: dict[str, Subject] = {}

    def make(kind: str) -> Subject:
        if kind in made:
            return made[kind]
        prepares = kind.endswith("_bytes")
        is_ssd = kind.startswith("ssd")
        request = GraphRequest(prepare=prepares, size=None if is_ssd else (96, 160))
        checkpoint = small_checkpoint if is_ssd else small_retinanet
        path = folder / f"{kind}.onnx"
        path.write_bytes(build_graph(load_detector(checkpoint), request).SerializeToString())
        fixed = (300, 300) if is_ssd else (96, 160)
        made[kind] = Subject(path, load_graph(path), (211, 333) if prepares else fixed)
        return made[kind]

    return make


@pytest.fixture(scope="session")
def npm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `node_modules` hold onnxruntime for Node and browsers, and axe."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is not installed: install Node.js 20 or newer for these tests")

    def install(folder: Path) -> None:
        # Its script after installation would fetch GPU libraries.
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *NPM_PACKAGES]
        (folder / "package.json").write_text('{"private": true, "type": "module"}\n')
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, f"npm cannot install {NPM_PACKAGES}: {done.stderr}"

    return build_once(tmp_path_factory, "npm", install)
