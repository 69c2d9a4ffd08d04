"""Backbone weights: what fits, what is refused, and what a URL costs."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.resnet import ResNet
from suite.errors import InputError, UsageError
from suite.files import file_sha256
from suite.weights import fetch_weights, load_backbone_weights, load_plain

STRIDES = (1, 2, 1)


def build_backbone(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(34, STRIDES, width=0.125)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """What a publisher has: also a last stage and a classifier."""
    torch.manual_seed(1)
    state = dict(ResNet(34, width=0.125).state_dict())
    return state | {"fc.weight": torch.randn(10, 64), "fc.bias": torch.zeros(10)}


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


# Files


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_cast_to_the_networks_type(
    weights: dict[str, Tensor], tmp_path: Path, dtype: torch.dtype
) -> None:
    stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
    backbone = build_backbone()
    load_backbone_weights(backbone, str(save(stored, tmp_path / "w.pth")))
    for key, tensor in backbone.state_dict().items():
        assert tensor.dtype == (torch.int64 if key.endswith("tracked") else torch.float32)
        assert torch.equal(tensor, stored[key].to(tensor.dtype)), key


def test_counters_may_be_absent(weights: dict[str, Tensor], tmp_path: Path) -> None:
    stored = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    backbone = build_backbone()
    load_backbone_weights(backbone, str(save(stored, tmp_path / "w.pth")))
    assert torch.equal(backbone.conv1.weight, stored["conv1.weight"])


def test_missing_weights_are_named_and_counted(weights: dict[str, Tensor], tmp_path: Path) -> None:
    stored = {k: v for k, v in weights.items() if not k.startswith("layer2.0.conv")}
    backbone = build_backbone()
    with pytest.raises(InputError, match=r"no weights for 'layer2\.0\.conv1\.weight' \(2 of \d+"):
        load_backbone_weights(backbone, str(save(stored, tmp_path / "w.pth")))
    untouched = build_backbone().state_dict()
    assert all(torch.equal(v, untouched[k]) for k, v in backbone.state_dict().items())


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    path = save(ResNet(34, STRIDES, width=0.25).state_dict(), tmp_path / "w.pth")
    message = r"'conv1\.weight' has shape \(16, 3, 7, 7\), the detector wants \(8, 3, 7, 7\)"
    with pytest.raises(InputError, match=message):
        load_backbone_weights(build_backbone(), str(path))


def test_a_missing_file_says_which_field_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pth.* not found; set detector\.backbone_weig"):
        load_backbone_weights(build_backbone(), str(tmp_path / "absent.pth"))


@pytest.mark.parametrize(
    "content",
    [
        lambda: [torch.zeros(2)],
        lambda: {"conv1.weight": [1.0]},
        lambda: {"a": torch.zeros(1).expand(10**12)},
        lambda: {"a": torch.zeros(3).to_sparse()},
        lambda: {"a": torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8)},
    ],
    ids=["list", "no tensor", "larger than its file", "sparse", "quantized"],
)
def test_only_ordinary_tensors_are_weights(content: Callable[[], Any], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's plans for quantized tensors
        path = save(content(), tmp_path / "w.pth")
        with pytest.raises(InputError, match=r"w\.pth: "):
            load_backbone_weights(build_backbone(), str(path))


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("container", ["pickle", "legacy", "zip", "inside"])
def test_a_payload_never_runs(container: str, tmp_path: Path) -> None:
    path, proof = tmp_path / "w.pth", tmp_path / "ran"
    payload = Payload(proof)
    if container == "pickle":
        path.write_bytes(pickle.dumps(payload))
    elif container == "legacy":
        torch.save(payload, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({"a": torch.zeros(2), "b": payload} if container == "inside" else payload, path)
    with pytest.raises(InputError, match="not a file of tensors and plain data"):
        load_plain(path)
    assert not proof.exists()
    with contextlib.suppress(RuntimeError):  # of the plain pickle, after it has run
        torch.load(path, weights_only=False)
    assert proof.exists()  # where nobody is careful


def test_compressed_files_are_refused_unread(tmp_path: Path) -> None:
    save({"a": torch.zeros(1000, 1000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert (tmp_path / "w.pth").stat().st_size < 20_000
    with pytest.raises(InputError, match="compressed members"):
        load_plain(tmp_path / "w.pth")


# URLs


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def content(weights: dict[str, Tensor], tmp_path: Path) -> bytes:
    return save(weights, tmp_path / "published.pth").read_bytes()


def cached(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_a_download_is_made_once(
    site: Any, content: bytes, weights: dict[str, Tensor], cache: Path
) -> None:
    digest = hashlib.sha256(content).hexdigest()
    url = site.put(f"/r34-{digest[:8]}.pth", content)
    for _ in range(2):
        backbone = build_backbone()
        load_backbone_weights(backbone, url)
        assert torch.equal(backbone.conv1.weight, weights["conv1.weight"])
    assert len(site.asked) == 1
    (kept,) = cached(cache)
    assert file_sha256(kept) == digest


def test_a_download_that_breaks_off_goes_on(
    site: Any, content: bytes, weights: dict[str, Tensor], cache: Path
) -> None:
    url = site.put("/r34.pth", content)
    site.faults = [{"num_bytes": 1000}]
    said: list[str] = []
    shown: list[tuple[int, int]] = []
    backbone = build_backbone()
    load_backbone_weights(
        backbone, url, progress=lambda *state: shown.append(state), say=said.append
    )
    assert torch.equal(backbone.conv1.weight, weights["conv1.weight"])
    assert [headers["Range"] for _, headers in site.asked] == [None, "bytes=1000-"]
    assert shown[-1] == (len(content), len(content))
    assert said[:2] == [
        f"fetching {url}",
        f"r34.pth: the connection ended after 1000 of {len(content)} bytes; trying again in 1 s",
    ]
    assert [path.name for path in cached(cache)] == ["r34.pth", "r34.pth.sha256"]


def test_a_name_with_another_digest_is_refused_and_not_kept(
    site: Any, content: bytes, cache: Path
) -> None:
    url = site.put("/r34-0123abcd.pth", content)
    with pytest.raises(InputError, match=f"{url}: its sha256 is [0-9a-f]{{64}}, expected 0123abcd"):
        load_backbone_weights(build_backbone(), url)
    assert cached(cache) == []


def test_without_a_digest_the_first_download_counts(
    site: Any, content: bytes, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = site.put("/r34.pth", content)
    load_backbone_weights(build_backbone(), url)
    digest = hashlib.sha256(content).hexdigest()
    said = capsys.readouterr().err
    assert f"fetching {url}" in said
    assert f"kept for the next time: sha256 {digest}" in said
    weights_path, digest_path = cached(cache)
    assert digest_path.read_text() == digest + "\n"
    weights_path.write_bytes(content[:-1] + b"x")
    with pytest.raises(InputError, match=r"its sha256 is .*delete the file to fetch it again"):
        load_backbone_weights(build_backbone(), url)
    weights_path.unlink()
    load_backbone_weights(build_backbone(), url)
    assert len(site.asked) == 2


def test_one_name_at_two_places_is_two_files(
    site: Any, content: bytes, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    other = {key: tensor + 1 for key, tensor in weights.items()}
    changed = save(other, tmp_path / "other.pth").read_bytes()
    first, second = build_backbone(), build_backbone()
    load_backbone_weights(first, site.put("/a/r34.pth", content))
    load_backbone_weights(second, site.put("/b/r34.pth", changed))
    assert torch.equal(first.conv1.weight + 1, second.conv1.weight)


def test_a_url_that_leads_nowhere_names_the_remedies(
    site: Any, content: bytes, weights: dict[str, Tensor], cache: Path
) -> None:
    absent = site.put("/r34.pth", b"").replace("r34", "absent")
    for url in (absent, "http://127.0.0.1:1/w.pth"):
        with pytest.raises(InputError, match=r"cannot fetch.*--set detector\.backbone_weights=F"):
            load_backbone_weights(build_backbone(), url)
    assert cached(cache) == []
    with pytest.raises(InputError) as refused:
        fetch_weights(absent)
    place = Path(str(refused.value).rpartition("place a copy of the file at ")[2])
    place.write_bytes(content)
    backbone = build_backbone()
    load_backbone_weights(backbone, absent)
    assert torch.equal(backbone.conv1.weight, weights["conv1.weight"])


def test_weights_can_be_kept_elsewhere(
    site: Any, content: bytes, tmp_path: Path, cache: Path
) -> None:
    url = site.put("/r34.pth", content)
    path = fetch_weights(url, tmp_path / "mine")
    assert (path, path.read_bytes()) == (tmp_path / "mine" / "r34.pth", content)
    assert cached(cache) == []


def test_a_first_download_that_is_no_weights_does_not_count(
    site: Any, content: bytes, cache: Path
) -> None:
    url = site.put("/r34.pth", b"<html>please log in</html>")
    with pytest.raises(InputError, match=r"r34\.pth: not a file of tensors.*delete it to fetch"):
        fetch_weights(url)
    (page,) = cached(cache)
    page.unlink()
    site.put("/r34.pth", content, tag='"2"')
    assert fetch_weights(url).read_bytes() == content


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://example.org/r34.pth", "only https is fetched"),
        ("ftp://127.0.0.1/r34.pth", "only https is fetched"),
        ("file:///etc/passwd", "only https is fetched"),
        ("https://example.org/", "names no file"),
        ("https://example.org/a/..", "names no file"),
        ("https://[::1/r34.pth", "Invalid IPv6 URL"),
    ],
)
def test_other_urls_are_refused(url: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        load_backbone_weights(build_backbone(), url)


@pytest.mark.parametrize(
    ("depth", "strides", "name"),
    [
        (34, STRIDES, "resnet34_imagenet"),
        (18, (1, 2, 2, 2), "resnet18_imagenet"),
        (50, (1, 2, 2, 2), "resnet50_imagenet_v1stride"),
    ],
)
def test_the_published_weights_fit(
    shared: Path, depth: int, strides: tuple[int, ...], name: str
) -> None:
    backbone = ResNet(depth, strides)
    load_backbone_weights(backbone, str(shared / "weights" / f"{name}.pth"))
    # What batch norm makes of the first weights; one publisher's are fifty times as large.
    spread = backbone.conv1.weight.std() / backbone.bn1.running_var.mean().sqrt()
    assert 0.01 < spread.item() < 0.2
