"""One small detector on disk, as a checkpoint and as a graph, and a web site on the loopback."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from PIL import Image

from models import Detector
from models.retinanet import RetinaNet
from models.ssd_r34 import SSDResNet34
from suite.checkpoint import build_recipe_detector, write_checkpoint
from suite.deploy.description import GraphRequest
from suite.deploy.export import export
from suite.recipe import Recipe, load_recipe, recipe_to_dict

_OVERRIDES = {
    "name": "small",
    "detector.num_classes": "3",
    "detector.width": "0.125",
    "postprocess.max_detections": "200",
    "postprocess.pre_topk": "300",
}
_RETINANET = {
    "name": "retinanet",
    "augment.crop": "none",
    "detector.name": "retinanet_r18_fpn",
    "resize.mode": "pad",
    "resize.short_side": "96",
    "resize.long_side": "160",
    # More than a 32x32 input has, so that the smallest input of its graph is a larger one.
    "postprocess.max_detections": "700",
    "postprocess.pre_topk": "700",
}


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of width 0.125 and 3 classes that finds hundreds of things in any noise."""
    recipe = load_recipe("demo", _OVERRIDES)
    torch.manual_seed(0)
    detector = build_recipe_detector(recipe)
    assert isinstance(detector, SSDResNet34)
    for head in detector.class_heads:
        assert isinstance(head, torch.nn.Conv2d) and head.bias is not None
        torch.nn.init.normal_(head.weight, std=0.2)
        head.bias.data.view(-1, 4)[:, 0] = 4  # background, as after training
    path = tmp_path_factory.mktemp("small") / "small.pth"
    _write_trained(detector, recipe, path)
    return path


def _write_trained(detector: Detector, recipe: Recipe, path: Path) -> None:
    state = {
        "step": 7,
        "weights": detector.state_dict(),
        "ema": None,
        "optimizer": {},
        "scaler": {},
        "events": {},
        "recipe": recipe_to_dict(recipe),
        "class_names": ["square", "circle", "ring"],
        "category_ids": [3, 5, 9],
        "data_digest": "0" * 64,
    }
    write_checkpoint(state, path)


@pytest.fixture(scope="session")
def small_retinanet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RetinaNet of width 0.125 and 3 classes for pictures of 96 x 160, which finds much."""
    recipe = load_recipe("demo", {**_OVERRIDES, **_RETINANET})
    torch.manual_seed(0)
    detector = build_recipe_detector(recipe)
    assert isinstance(detector, RetinaNet)
    for conv in (*detector.head.class_tower, *detector.head.box_tower, detector.head.class_out):
        assert isinstance(conv, torch.nn.Conv2d)
        torch.nn.init.kaiming_normal_(conv.weight)  # its own 0.01 is for 256 channels
    detector.head.class_out.weight.data *= 4
    path = tmp_path_factory.mktemp("small") / "retinanet.pth"
    _write_trained(detector, recipe, path)
    return path


@pytest.fixture(scope="session")
def small_graph(small_checkpoint: Path) -> Path:
    """The same detector as a graph, with its sidecar beside it."""
    return export(small_checkpoint)[0]


@pytest.fixture(scope="session")
def small_retinanet_graph(small_retinanet: Path) -> Path:
    """The RetinaNet as a graph of free height and width, with its sidecar beside it."""
    return export(small_retinanet)[0]


@pytest.fixture(scope="session")
def small_raw_graph(small_checkpoint: Path) -> Path:
    """The same detector as a graph of raw heads."""
    return export(
        small_checkpoint, GraphRequest(nms="none"), output=small_checkpoint.with_name("raw.onnx")
    )[0]


@pytest.fixture(scope="session")
def small_photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two smooth random images, neither of them square."""
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(3)
    paths = []
    for number, size in enumerate([(400, 200), (120, 330)]):
        coarse = torch.randint(256, (6, 6, 3), generator=generator, dtype=torch.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(coarse.numpy()).resize(size, Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


@pytest.fixture
def change_graph(tmp_path: Path) -> Callable[[Path, Callable[[onnx.ModelProto], None]], Path]:
    """Write a changed copy of a graph, without a sidecar, and return its path."""

    def write(graph: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
        model = onnx.load(graph)
        change(model)
        path = tmp_path / "changed.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


class Site(http.server.ThreadingHTTPServer):
    """Serves bytes by path, remembers what it was asked for, and fails as it is told to.

    Attributes:
        tags: path -> ETag; a path without one has none.
        asked: path and headers of every request.
        faults: what to do wrong in the next answers, one each: `status`, `headers`, `num_bytes`
            (of the body, then the end), `ignores` (headers of the request), `hangs_up`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.asked: list[tuple[str, Any]] = []
        self.faults: list[dict[str, Any]] = []

    def put(self, path: str, content: bytes, *, tag: str = '"1"') -> str:
        """Serve a page and return its URL."""
        self.pages[path], self.tags[path] = content, tag
        return f"http://127.0.0.1:{self.server_port}{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site, path = self.server, self.path
        site.asked.append((path, self.headers))
        fault = site.faults.pop(0) if site.faults else {}
        if fault.get("hangs_up"):
            return
        asked = {k: v for k, v in self.headers.items() if k not in fault.get("ignores", ())}
        content, tag = site.pages.get(path), site.tags.get(path, "")
        status, start = (200, 0) if content is not None else (404, 0)
        if "Range" in asked and asked.get("If-Range", tag) == tag:
            status, start = 206, int(asked["Range"].removeprefix("bytes=").rstrip("-"))
        body = (content or b"")[start:]
        headers = {"Content-Length": str(len(body)), "ETag": tag}
        if status == 206:
            end = start + len(body)
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{end}"
        self.send_response(fault.get("status", status))
        for name, value in (headers | fault.get("headers", {})).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: fault.get("num_bytes", len(body))])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    """A web site on the loopback."""
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
