"""Fetching from a server that breaks off, changes its mind, lies, or is not there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from suite.download import fetch, require_room
from suite.errors import InputError
from suite.locking import alone

CONTENT = bytes(range(256)) * 40
HALF = len(CONTENT) // 2
OTHER = CONTENT[::-1]
AT_ONCE = (0.0, 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "a.zip"


def quiet(_: str) -> None:
    pass


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def ranges(site: Any) -> list[tuple[str | None, str | None]]:
    return [(headers["Range"], headers["If-Range"]) for _, headers in site.asked]


def fetch_quietly(url: str, path: Path, *, delays_s: Sequence[float] = AT_ONCE) -> None:
    fetch(url, path, digest=sha256(CONTENT), say=quiet, delays_s=delays_s)


# What breaks off goes on


def test_what_is_fetched_is_whole_and_nothing_else_stays(site: Any, path: Path) -> None:
    shown: list[tuple[int, int]] = []
    said: list[str] = []
    url = site.put("/a.zip", CONTENT)
    fetch(
        url,
        path,
        digest=sha256(CONTENT),
        progress=lambda *state: shown.append(state),
        say=said.append,
    )
    assert path.read_bytes() == CONTENT
    assert names(path) == ["a.zip"]
    assert (shown[0], shown[-1]) == ((0, len(CONTENT)), (len(CONTENT), len(CONTENT)))
    assert said == [f"fetching {url}"]


def test_a_lost_connection_goes_on_with_a_range(site: Any, path: Path) -> None:
    shown: list[tuple[int, int]] = []
    said: list[str] = []
    url = site.put("/a.zip", CONTENT)
    site.faults = [{"num_bytes": HALF}, {"num_bytes": 100}]
    fetch(
        url,
        path,
        digest=sha256(CONTENT),
        progress=lambda *state: shown.append(state),
        say=said.append,
        delays_s=AT_ONCE,
    )
    assert path.read_bytes() == CONTENT
    assert ranges(site) == [
        (None, None),
        (f"bytes={HALF}-", '"1"'),
        (f"bytes={HALF + 100}-", '"1"'),
    ]
    assert [state for state in shown if state[0] in (0, HALF)] == [
        (0, len(CONTENT)),
        (HALF, len(CONTENT)),
        (HALF, len(CONTENT)),
    ]
    assert said[1:] == [
        f"a.zip: the connection ended after {done} of {len(CONTENT)} bytes; trying again in 0 s"
        for done in (HALF, HALF + 100)
    ]


def test_a_later_call_goes_on_too(site: Any, path: Path) -> None:
    url = site.put("/a.zip", CONTENT)
    site.faults = [{"num_bytes": HALF}]
    with pytest.raises(InputError, match=f"ended after {HALF} of {len(CONTENT)} bytes"):
        fetch_quietly(url, path, delays_s=())
    assert not path.exists()
    fetch_quietly(url, path)
    assert path.read_bytes() == CONTENT
    assert ranges(site)[1] == (f"bytes={HALF}-", '"1"')


def test_a_date_serves_where_no_strong_tag_is_given(site: Any, path: Path) -> None:
    date = "Sat, 01 Aug 2026 10:00:00 GMT"
    for tag in ("", 'W/"1"'):
        path.unlink(missing_ok=True)
        url = site.put("/a.zip", CONTENT, tag=tag)
        site.asked.clear()
        site.faults = [{"num_bytes": HALF, "headers": {"Last-Modified": date}}, {}]
        fetch_quietly(url, path)
        assert path.read_bytes() == CONTENT
        assert ranges(site)[1] == (f"bytes={HALF}-", date)


def test_without_tag_and_date_it_begins_again(site: Any, path: Path) -> None:
    url = site.put("/a.zip", CONTENT, tag="")
    site.faults = [{"num_bytes": HALF}]
    fetch_quietly(url, path)
    assert path.read_bytes() == CONTENT
    assert ranges(site) == [(None, None), (None, None)]


def test_a_server_without_ranges_sends_the_whole(site: Any, path: Path) -> None:
    url = site.put("/a.zip", CONTENT)
    site.faults = [{"num_bytes": HALF}, {"ignores": ["Range"]}]
    fetch_quietly(url, path)
    assert path.read_bytes() == CONTENT
    assert ranges(site)[1] == (f"bytes={HALF}-", '"1"')


@pytest.mark.parametrize("fault", [{}, {"ignores": ["If-Range"]}], ids=["honest", "careless"])
@pytest.mark.parametrize("content", [OTHER, OTHER[: HALF + 1]], ids=["same size", "shorter"])
def test_a_file_that_changes_is_never_joined(
    site: Any, path: Path, fault: dict[str, Any], content: bytes
) -> None:
    url = site.put("/a.zip", CONTENT)
    site.faults = [{"num_bytes": HALF}]
    with pytest.raises(InputError):
        fetch(url, path, say=quiet, delays_s=())
    site.put("/a.zip", content, tag='"2"')
    site.faults = [fault]
    fetch(url, path, say=quiet, delays_s=AT_ONCE)
    assert path.read_bytes() == content


def test_another_url_of_the_same_name_begins_again(site: Any, path: Path) -> None:
    site.faults = [{"num_bytes": HALF}]
    with pytest.raises(InputError):
        fetch(site.put("/1/a.zip", OTHER), path, say=quiet, delays_s=())
    fetch_quietly(site.put("/2/a.zip", CONTENT), path)
    assert path.read_bytes() == CONTENT
    assert ranges(site)[1] == (None, None)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 416},
        {
            "status": 206,
            "ignores": ["Range"],
            "num_bytes": HALF,
            "headers": {"Content-Range": "bytes 0-5119/10240", "Content-Length": str(HALF)},
        },
        {"status": 206, "headers": {"Content-Range": "all of it"}},
        {"headers": {"Content-Range": f"bytes {HALF}-10240/10241"}},
    ],
    ids=["not satisfiable", "other bytes", "no range", "other size"],
)
def test_a_range_that_is_answered_wrongly_begins_again(
    site: Any, path: Path, fault: dict[str, Any]
) -> None:
    url = site.put("/a.zip", CONTENT)
    site.faults = [{"num_bytes": HALF}, fault]
    fetch_quietly(url, path)
    assert path.read_bytes() == CONTENT
    assert [asked is None for asked, _ in ranges(site)] == [True, False, True]


def test_a_process_that_died_before_the_end_is_finished_without_the_server(
    site: Any, path: Path
) -> None:
    url = site.put("/a.zip", CONTENT)
    site.faults = [{"num_bytes": HALF}]
    with pytest.raises(InputError):
        fetch_quietly(url, path, delays_s=())
    with (path.parent / "a.zip.part").open("ab") as part:
        part.write(CONTENT[HALF:])
    fetch_quietly(url, path)
    assert path.read_bytes() == CONTENT
    assert len(site.asked) == 1


def test_an_empty_file_is_a_file(site: Any, path: Path) -> None:
    fetch(site.put("/a.zip", b""), path, say=quiet)
    assert path.read_bytes() == b""


# Trying again, and when not


@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"status": 500}, {"status": 429}, {"hangs_up": True}]
)
def test_a_server_in_trouble_is_asked_again(site: Any, path: Path, fault: dict[str, Any]) -> None:
    url = site.put("/a.zip", CONTENT)
    site.faults = [fault, fault]
    fetch_quietly(url, path)
    assert path.read_bytes() == CONTENT
    assert len(site.asked) == 3


def test_tries_in_vain_end(site: Any, path: Path) -> None:
    url = site.put("/a.zip", CONTENT)
    site.faults = [{"status": 503}] * 9
    with pytest.raises(InputError, match=f"cannot fetch {url} .HTTP 503 .*place a copy .*{path}$"):
        fetch_quietly(url, path)
    assert len(site.asked) == 3
    assert names(path) == []


def test_tries_that_bring_much_are_not_in_vain(site: Any, path: Path) -> None:
    content = CONTENT * 1024  # 10 MiB
    url = site.put("/a.zip", content)
    site.faults = [{"num_bytes": 2**20}] * 9
    fetch(url, path, say=quiet, delays_s=(0.0,))
    assert path.read_bytes() == content
    assert len(site.asked) == 10


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(site: Any, path: Path, status: int) -> None:
    url = site.put("/a.zip", CONTENT)
    site.faults = [{"status": status}]
    with pytest.raises(InputError, match=f"HTTP {status}.*place a copy of the file at {path}$"):
        fetch_quietly(url, path)
    assert len(site.asked) == 1


def test_a_server_that_is_not_there_is_not_waited_for(path: Path) -> None:
    said: list[str] = []
    with pytest.raises(InputError, match=f"refused.*place a copy of the file at {path}$"):
        fetch("http://127.0.0.1:1/a.zip", path, say=said.append, delays_s=(60.0,))
    assert said == ["fetching http://127.0.0.1:1/a.zip"]
    path.write_bytes(CONTENT)
    fetch("http://127.0.0.1:1/a.zip", path, digest=sha256(CONTENT), say=quiet)


# Wrong bytes


def test_another_digest_leaves_nothing(site: Any, path: Path) -> None:
    url = site.put("/a.zip", OTHER)
    message = f"{url}: its sha256 is {sha256(OTHER)}, expected {sha256(CONTENT)}"
    with pytest.raises(InputError, match=f"^{message}$"):
        fetch_quietly(url, path)
    assert names(path) == []


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (str(len(CONTENT) + 7), f"ended after {len(CONTENT)} of {len(CONTENT) + 7} bytes"),
        (str(len(CONTENT) - 7), "its sha256 is"),
        ("", "does not say how long"),
        ("many", "does not say how long"),
        (str(10**18), r"1000000000\.0 GB are needed and .* GB are free; make room or"),
    ],
)
def test_a_length_that_is_not_true(site: Any, path: Path, length: str, message: str) -> None:
    url = site.put("/a.zip", CONTENT)
    site.faults = [{"headers": {"Content-Length": length}, "ignores": ["Range"]}] * 5
    with pytest.raises(InputError, match=message):
        fetch_quietly(url, path)
    assert not path.exists()


# Places


def test_a_place_that_cannot_be_written_is_named(site: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/a\.zip: cannot be written"):
        fetch(site.put("/a.zip", CONTENT), tmp_path / "file" / "a.zip", say=quiet)


def test_room_is_asked_for(tmp_path: Path) -> None:
    require_room(tmp_path, 0)
    with pytest.raises(InputError, match=f"{tmp_path}: 1000000000.0 GB are needed"):
        require_room(tmp_path, 10**18)


def test_what_another_process_brings_meanwhile_is_used(site: Any, path: Path) -> None:
    url = site.put("/a.zip", OTHER)
    waits = threading.Event()
    path.parent.mkdir()
    with ThreadPoolExecutor(1) as pool:
        with alone(path.parent / "a.zip.lock", say=quiet):
            fetched = pool.submit(
                fetch, url, path, digest=sha256(CONTENT), say=lambda _: waits.set()
            )
            assert waits.wait(10)
            path.write_bytes(CONTENT)
        fetched.result()
    assert site.asked == []
    assert names(path) == ["a.zip"]
