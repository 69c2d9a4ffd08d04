"""Writing the page that detects in a browser; what it does there is tested in tests/runtimes."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from suite.deploy import web
from suite.deploy.web import FOLDER_NAMES, runtime_files, write_page
from suite.errors import InputError, MissingEnvironment, UsageError
from suite.graph_file import GraphFile, load_graph

# What the page needs of the package, and more.
PARTS = {
    "package/dist/ort.wasm.min.mjs": b"import",
    "package/dist/ort-wasm-simd-threaded.mjs": b"glue",
    "package/dist/ort-wasm-simd-threaded.wasm": b"\0asm",
    "package/dist/ort.all.js": b"more",
}


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """An unpacked package."""
    for name, content in PARTS.items():
        path = tmp_path / "npm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "npm" / "package"


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_holds_all_it_needs(small_graph: Path, runtime: Path, tmp_path: Path) -> None:
    page = write_page(small_graph, tmp_path / "page", runtime_files=runtime)
    written = read_folder(tmp_path / "page")
    assert page == tmp_path / "page" / "index.html"
    assert sorted(written) == sorted(FOLDER_NAMES)
    assert written["model.onnx"] == small_graph.read_bytes()
    assert written["ort.js"] == b"import"
    assert written["ort-wasm.wasm"] == b"\0asm"
    card = json.loads(written["model.json"])
    assert card["class_names"] == ["square", "circle", "ring"]
    assert card["num_bytes"] == small_graph.stat().st_size
    assert card["sizing"]["canvases"] == [[300, 300]]


def test_two_pages_are_the_same_bytes(small_graph: Path, runtime: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_page(small_graph, tmp_path / name, runtime_files=runtime / "dist")
    assert read_folder(tmp_path / "a") == read_folder(tmp_path / "b")


def test_the_page_names_no_other_place(small_graph: Path, runtime: Path, tmp_path: Path) -> None:
    write_page(small_graph, tmp_path / "page", runtime_files=runtime)
    written = read_folder(tmp_path / "page")
    text = b"".join(written[name] for name in ("index.html", "style.css", "page.js", "detect.js"))
    places = set(re.findall(r"https?://[^\s\"'<]+|//[a-z.]+\.[a-z]+/", text.decode()))
    assert places == {"http://localhost:8000"}  # what it says of serving it
    policy = re.search(rb'Security-Policy" content="([^"]*)"', written["index.html"])
    assert policy is not None
    assert {b"default-src 'none'", b"connect-src 'self'"} <= set(policy[1].split(b"; "))
    assert b"unsafe-inline" not in policy[1]
    assert not re.search(rb"innerHTML|outerHTML|insertAdjacentHTML|eval\(|document\.write", text)


def test_names_in_a_graph_stay_in_its_description(
    small_graph: Path,
    runtime: Path,
    tmp_path: Path,
    change_graph: Callable[[Path, Callable[[onnx.ModelProto], None]], Path],
) -> None:
    hostile = ["../../x", "<script>alert(1)</script>", "</script>"]

    def rename(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key == "class_names":
                entry.value = json.dumps(hostile)

    write_page(change_graph(small_graph, rename), tmp_path / "page", runtime_files=runtime)
    written = read_folder(tmp_path / "page")
    assert sorted(written) == sorted(FOLDER_NAMES)
    assert json.loads(written["model.json"])["class_names"] == hostile
    assert all(b"alert(1)" not in written[name] for name in ("index.html", "page.js", "style.css"))


def test_what_cannot_be_a_page_is_refused(
    small_graph: Path, small_raw_graph: Path, runtime: Path, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match=r"there: exists already; name a new folder"):
        write_page(small_graph, tmp_path / "there", runtime_files=runtime)
    with pytest.raises(UsageError, match=r"raw\.onnx: a page needs boxes.* pass --nms op"):
        write_page(small_raw_graph, tmp_path / "page", runtime_files=runtime)
    with pytest.raises(InputError, match=r"none\.onnx: no such graph"):
        write_page(tmp_path / "none.onnx", tmp_path / "page", runtime_files=runtime)
    (runtime / "dist" / "ort-wasm-simd-threaded.wasm").unlink()
    with pytest.raises(InputError, match=r"threaded\.wasm: no such file; give the unpacked npm"):
        write_page(small_graph, tmp_path / "page", runtime_files=runtime)
    (tmp_path / "file").write_text("")
    runtime.joinpath("dist", "ort-wasm-simd-threaded.wasm").write_text("again")
    with pytest.raises(InputError, match=r"file/page: cannot be written \(Not a directory\)"):
        write_page(small_graph, tmp_path / "file" / "page", runtime_files=runtime)
    assert not (tmp_path / "page").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_graph_that_changes_while_it_is_read_is_no_page(
    small_graph: Path, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(small_graph.read_bytes())

    def load_and_change(path: Path) -> GraphFile:
        loaded = load_graph(path)
        path.write_bytes(b"another")
        return loaded

    monkeypatch.setattr(web, "load_graph", load_and_change)
    with pytest.raises(InputError, match=r"model\.onnx: was written to while it was read"):
        write_page(graph, tmp_path / "page", runtime_files=runtime)
    assert not (tmp_path / "page").exists()


def put_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let `npm` be a shell script; $6 is where it is told to put the package."""
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def pack(path: Path, parts: dict[str, bytes], *, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(content), "/etc/passwd"
            archive.addfile(member, io.BytesIO(content))
    return path


def test_npm_fetches_the_runtime(
    small_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pack(tmp_path / "package.tgz", PARTS)
    put_npm(tmp_path / "bin", monkeypatch, f'[ "$1" = pack ] && cp {package} "$6"')
    with pytest.raises(InputError, match=r"ort\.wasm\.min\.mjs is not that of the release"):
        write_page(small_graph, tmp_path / "page")
    known = {
        name: (place, runtime_files.hashlib.sha256(PARTS[f"package/{place}"]).hexdigest())
        for name, (place, _) in runtime_files._FILES.items()
    }
    monkeypatch.setattr(runtime_files, "_FILES", known)
    write_page(small_graph, tmp_path / "page")
    assert (tmp_path / "page" / "ort-wasm.js").read_bytes() == b"glue"


@pytest.mark.parametrize(
    "parts, kind", [({}, tarfile.REGTYPE), (PARTS, tarfile.SYMTYPE), (PARTS, tarfile.LNKTYPE)]
)
def test_a_strange_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, bytes], kind: bytes
) -> None:
    package = pack(tmp_path / "package.tgz", parts, kind=kind)
    put_npm(tmp_path / "bin", monkeypatch, f'cp {package} "$6"')
    with pytest.raises(InputError, match=r"npm fetched no such package; or unpack onnxruntime-web"):
        runtime_files.fetch_runtime()


def test_without_npm_or_a_registry_the_way_out_is_named(
    small_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_npm(tmp_path / "bin", monkeypatch, 'echo "npm error code ENOTFOUND" >&2; exit 1')
    with pytest.raises(MissingEnvironment, match=r"cannot fetch .*\(npm error code ENOTFOUND\)"):
        write_page(small_graph, tmp_path / "page")
    script = "printf 'npm error \\033[2Jcode \\377\\n' >&2; exit 1"
    put_npm(tmp_path / "rude", monkeypatch, script)
    with pytest.raises(MissingEnvironment) as caught:
        write_page(small_graph, tmp_path / "page")
    assert "npm error" in str(caught.value) and str(caught.value).isprintable()
    put_npm(tmp_path / "slow", monkeypatch, "exec sleep 60")
    monkeypatch.setattr(runtime_files, "_SECONDS", 0.2)
    with pytest.raises(MissingEnvironment, match=r"no end within 0\.2 s.* or unpack onnxruntime-"):
        write_page(small_graph, tmp_path / "page")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingEnvironment, match=r"npm is not installed; install Node\.js, or"):
        write_page(small_graph, tmp_path / "page")
    assert not (tmp_path / "page").exists()
