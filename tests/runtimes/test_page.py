"""The page in headless Chromium: it finds what `suite predict` finds, and asks nobody for help."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlparse

import numpy as np
import onnx
import pytest
from PIL import Image

from models.structures import Detections
from suite.data.images import read_image
from suite.deploy.web import FOLDER_NAMES, write_page
from suite.device import build_device
from suite.predict import detect_image
from suite.runtime import load_detect
from tests.runtimes.browser import Browser, browsing
from tests.runtimes.conftest import KINDS, Subject

pytestmark = pytest.mark.slow

SAYS = "document.getElementById('status').textContent"
COMPLAINS = "!document.getElementById('error').hidden"
ROWS = "[...document.querySelectorAll('#detections tr')]"


@contextmanager
def serving(folder: Path, *, isolated: bool = False) -> Iterator[str]:
    """Serve a folder on the loopback, as simple servers do: what .mjs and .wasm are is unknown."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map: ClassVar = {
            ".html": "text/html",
            ".js": "text/javascript",
            ".css": "text/css",
            "": "application/octet-stream",
        }

        def end_headers(self) -> None:
            if isolated:
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:  # else a test that fails would never end
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def pages(
    subjects: Callable[[str], Subject], npm_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    base = tmp_path_factory.mktemp("pages")
    runtime = npm_folder / "node_modules" / "onnxruntime-web"

    def make(kind: str) -> Path:
        folder = base / kind
        if not folder.exists():
            write_page(subjects(kind).path, folder, runtime_files=runtime)
        return folder

    return make


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as started:
        yield started


def open_page(browser: Browser, url: str) -> None:
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(url)
    browser.wait(f"location.href === '{url}' && document.readyState === 'complete'")
    browser.wait(f"{SAYS} === 'Ready.' || {COMPLAINS}")
    assert browser.evaluate(SAYS) == "Ready."


def choose(browser: Browser, photo: Path) -> None:
    browser.choose("#file", photo)
    browser.wait(f"document.getElementById('caption').textContent.startsWith('{photo.name},')")
    browser.wait(f"{SAYS} === 'Done.'")


def show_all(browser: Browser) -> list[dict[str, Any]]:
    """Move the slider to its lowest score and return the rows of the table."""
    browser.evaluate(
        "(() => { const slider = document.getElementById('threshold'); slider.value = slider.min;"
        "slider.dispatchEvent(new Event('input')); })()"
    )
    found: list[dict[str, Any]] = browser.evaluate(
        f"{ROWS}.map(row => ({{name: row.cells[0].textContent, score: Number(row.dataset.score), "
        "box: row.dataset.box.split(' ').map(Number)}))"
    )
    return found


def check_found(found: list[dict[str, Any]], expected: Detections, names: tuple[str, ...]) -> None:
    """Pair what a page shows with what `suite predict` finds, each with the closest of its name."""
    left = [
        (names[label], score, np.array(box))
        for box, score, label in zip(
            expected.boxes_xyxy.tolist(),
            expected.scores.tolist(),
            expected.labels.tolist(),
            strict=True,
        )
    ]
    assert len(found) == len(left) > 30
    for row in found:
        near = [
            other
            for other in left
            if other[0] == row["name"]
            and abs(other[1] - row["score"]) < 1e-4
            and np.abs(other[2] - row["box"]).max() < 0.01
        ]
        assert near, row
        left = [other for other in left if other is not near[0]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_finds_what_predict_finds(
    browser: Browser,
    pages: Callable[[str], Path],
    subjects: Callable[[str], Subject],
    small_photos: list[Path],
    tmp_path: Path,
    kind: str,
) -> None:
    # Browsers and our reader decode a JPEG to the same pixels.
    jpeg = tmp_path / "photo.jpg"
    with Image.open(small_photos[0]) as image:
        image.save(jpeg, quality=85)
    loaded = load_detect(subjects(kind).path, device=build_device("cpu", "fp32"))
    with serving(pages(kind)) as url:
        open_page(browser, url)
        for photo in (*small_photos, jpeg):
            choose(browser, photo)
            expected = detect_image(loaded, read_image(photo))
            check_found(show_all(browser), expected, loaded.class_names)
        asked = {urlparse(request).path[1:] for request in browser.requests}
        assert all(request.startswith((url, "data:", "blob:")) for request in browser.requests)
        assert asked >= {*FOLDER_NAMES} - {"index.html"}
        assert browser.complaints == []


def test_boxes_are_drawn_where_they_are_told(
    browser: Browser, pages: Callable[[str], Path], small_photos: list[Path]
) -> None:
    with serving(pages("ssd")) as url:
        open_page(browser, url)
        choose(browser, small_photos[0])
        show_all(browser)
        changed = browser.evaluate(
            """(async () => {
              const canvas = document.getElementById("picture");
              const area = ({ dataset }) => {
                const [x0, y0, x1, y1] = dataset.box.split(" ").map(Number);
                return (x1 - x0) * (y1 - y0);
              };
              const rows = [...document.querySelectorAll("#detections tr")];
              const row = rows.reduce((best, other) => area(other) > area(best) ? other : best);
              row.dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
              const [x0, y0, x1, y1] = row.dataset.box.split(" ").map(Number);
              const swatch = getComputedStyle(row.querySelector(".swatch")).backgroundColor;
              const pen = canvas.getContext("2d");
              const at = (x, y) => [...pen.getImageData(x, y, 1, 1).data].slice(0, 3);
              const across = (x, y, dx, dy) => [-1, 0, 1].map((k) => at(x + k * dx, y + k * dy));
              const middle = [(x0 + x1) / 2, (y0 + y1) / 2];
              return { size: [canvas.width, canvas.height], swatch, box: [x0, y0, x1, y1],
                sides: [across(x0, middle[1], 1, 0), across(x1, middle[1], 1, 0),
                  across(middle[0], y1, 0, 1)],
                inside: at(...middle) };
            })()"""
        )
    colour = [int(part) for part in changed["swatch"][4:-1].split(",")]
    with Image.open(small_photos[0]) as photo:
        assert changed["size"] == list(photo.size)
    for side in changed["sides"]:
        assert np.abs(np.subtract(side, colour)).max(axis=1).min() < 30, changed
    x0, y0, x1, y1 = changed["box"]
    untouched = read_image(small_photos[0])[int((y0 + y1) / 2), int((x0 + x1) / 2)]
    assert np.abs(np.subtract(changed["inside"], untouched.astype(int))).max() <= 1


def test_a_picture_is_upright_and_its_box_too(
    browser: Browser,
    pages: Callable[[str], Path],
    subjects: Callable[[str], Subject],
    small_photos: list[Path],
    tmp_path: Path,
) -> None:
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    with Image.open(small_photos[0]) as photo:
        photo.save(turned, exif=exif)
    loaded = load_detect(subjects("ssd").path, device=build_device("cpu", "fp32"))
    with serving(pages("ssd")) as url:
        open_page(browser, url)
        choose(browser, turned)
        expected = detect_image(loaded, read_image(turned))
        check_found(show_all(browser), expected, loaded.class_names)
        assert "200 \N{MULTIPLICATION SIGN} 400" in browser.evaluate(
            "document.getElementById('caption').textContent"
        )


def test_what_is_no_picture_is_said_and_the_page_goes_on(
    browser: Browser, pages: Callable[[str], Path], small_photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("no picture")
    with serving(pages("ssd")) as url:
        open_page(browser, url)
        browser.choose("#file", tmp_path / "note.txt")
        browser.wait(COMPLAINS)
        said = browser.evaluate("document.getElementById('error').textContent")
        assert said.startswith("note.txt is not a picture that this browser can read.")
        choose(browser, small_photos[0])
        assert not browser.evaluate(COMPLAINS)


@pytest.mark.parametrize("broken", ["ort-wasm.wasm", "model.onnx", "model.json"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_broken_folder_says_so(
    browser: Browser, pages: Callable[[str], Path], tmp_path: Path, broken: str, how: str
) -> None:
    for file in pages("ssd").iterdir():
        content = file.read_bytes()
        if file.name != broken:
            (tmp_path / file.name).write_bytes(content)
        elif how == "damaged":
            (tmp_path / file.name).write_bytes(content[: len(content) // 2])
    with serving(tmp_path) as url:
        browser.open(url)
        browser.wait(f"location.href === '{url}' && document.readyState === 'complete'")
        browser.wait(COMPLAINS)
        said = browser.evaluate("document.getElementById('error').textContent")
        assert said.startswith("This page cannot start. ")
        assert how == "damaged" or broken in said


@pytest.mark.parametrize("isolated", [True, False])
def test_threads_are_used_where_the_server_allows_them(
    browser: Browser, pages: Callable[[str], Path], small_photos: list[Path], isolated: bool
) -> None:
    count = "globalThis.workers = 0; globalThis.Worker = class extends Worker {"
    count += " constructor(...given) { super(...given); globalThis.workers++; } };"
    browser.call("Emulation.setHardwareConcurrencyOverride", hardwareConcurrency=3)
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=count)
    try:
        with serving(pages("ssd"), isolated=isolated) as url:
            open_page(browser, url)
            assert browser.evaluate("crossOriginIsolated") is isolated
            choose(browser, small_photos[0])
            # The page's own thread is one of them.
            assert browser.evaluate("workers") == (2 if isolated else 0)
            assert browser.complaints == []
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", **script)


def test_a_failing_test_ends_its_server(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(AssertionError, match="wrong"), serving(tmp_path):
        raise AssertionError("wrong")
    assert threading.active_count() == before


@pytest.mark.parametrize("threshold", [0.28, 0.29, 0.305, 0.55])
def test_the_slider_reaches_every_detection(
    browser: Browser,
    subjects: Callable[[str], Subject],
    npm_folder: Path,
    small_photos: list[Path],
    tmp_path: Path,
    threshold: float,
) -> None:
    """Thresholds are no whole hundredths, or are none to binary arithmetic."""
    model = onnx.load(subjects("ssd").path)
    limits = {entry.key: entry for entry in model.metadata_props}["postprocess"]
    limits.value = json.dumps(json.loads(limits.value) | {"score_threshold": threshold})
    baked = next(node for node in model.graph.node if node.op_type == "NonMaxSuppression").input[4]
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == baked]
    shown = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(shown, threshold), baked))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    folder = tmp_path / "page"
    write_page(path, folder, runtime_files=npm_folder / "node_modules" / "onnxruntime-web")
    loaded = load_detect(path, device=build_device("cpu", "fp32"))
    expected = detect_image(loaded, read_image(small_photos[0]))
    with serving(folder) as url:
        open_page(browser, url)
        choose(browser, small_photos[0])
        found = show_all(browser)
    assert len(found) == len(expected.scores) > 0
    assert min(row["score"] for row in found) < threshold + 0.01


def test_the_keyboard_reaches_everything(
    browser: Browser, pages: Callable[[str], Path], small_photos: list[Path]
) -> None:
    with serving(pages("ssd")) as url:
        open_page(browser, url)
        choose(browser, small_photos[0])
        browser.evaluate("document.activeElement.blur()")
        reached = []
        for _ in range(4):
            browser.press("Tab", 9)
            reached.append(browser.evaluate("document.activeElement.id"))
        assert reached == ["file", "threshold", "rows", "again"]


def test_the_page_may_ask_nobody_else(browser: Browser, pages: Callable[[str], Path]) -> None:
    with serving(pages("ssd")) as url, serving(pages("ssd")) as elsewhere:
        open_page(browser, url)
        said = browser.evaluate(f"fetch('{elsewhere}model.json').then(() => '', e => e.message)")
        assert said == "Failed to fetch"
        assert any("Content Security Policy" in complaint for complaint in browser.complaints)
