"""Where a file may come from, and where a redirect may lead."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from suite.download import fetch
from suite.errors import InputError, UsageError

CONTENT = bytes(range(256))
HALF = len(CONTENT) // 2
AT_ONCE = (0.0, 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "a.zip"


def quiet(_: str) -> None:
    pass


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://example.org/a.zip", "only https is fetched"),
        ("http://127.0.0.1.example.org/a.zip", "only https is fetched"),
        ("http://127.0.0.1@example.org/a.zip", "only https is fetched"),
        ("ftp://127.0.0.1/a.zip", "only https is fetched"),
        ("file:///etc/passwd", "only https is fetched"),
        ("https:///a.zip", "only https is fetched"),
        ("https://[::1/a.zip", "Invalid IPv6 URL"),
    ],
)
def test_other_urls_are_refused(path: Path, url: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        fetch(url, path)
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "target", ["http://example.org/a.zip", "file:///etc/passwd", "ftp://127.0.0.1/a.zip"]
)
def test_redirects_are_held_to_the_same_rule(site: Any, path: Path, target: str) -> None:
    url = site.put("/a.zip", CONTENT)
    site.faults = [{"status": 302, "headers": {"Location": target}}]
    with pytest.raises(InputError, match=re.escape(target)):
        fetch(url, path, say=quiet, delays_s=AT_ONCE)


def test_a_redirect_on_this_machine_is_followed_and_goes_on(site: Any, path: Path) -> None:
    target = site.put("/b.zip", CONTENT)
    url = site.put("/a.zip", b"")
    there = {"status": 302, "headers": {"Location": target}}
    site.faults = [there, {"num_bytes": HALF}, there, {}]
    fetch(url, path, say=quiet, delays_s=AT_ONCE)
    assert path.read_bytes() == CONTENT
    assert [asked for asked, _ in site.asked] == ["/a.zip", "/b.zip"] * 2
    assert site.asked[3][1]["Range"] == f"bytes={HALF}-"


def test_redirects_in_a_circle_end(site: Any, path: Path) -> None:
    url = site.put("/a.zip", b"")
    site.faults = [{"status": 302, "headers": {"Location": url}}] * 50
    with pytest.raises(InputError, match="HTTP 302"):
        fetch(url, path, say=quiet, delays_s=AT_ONCE)
    assert len(site.asked) < 20


def test_what_is_for_this_machine_goes_through_no_proxy(
    site: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    fetch(site.put("/a.zip", CONTENT), path, say=quiet)
    assert path.read_bytes() == CONTENT
