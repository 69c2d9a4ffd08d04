"""However a command ends, it ends with its own exit code, in time, and tidies up where it can."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

# A verb of the command line that does what a test wants.
WITH_VERB = """
import ctypes, multiprocessing, os, sys, threading, time
import suite.cli, suite.leaving
from suite.errors import InputError, Diverged

def hang():
    os.closerange(0, 3)  # the test waits for these
    time.sleep(20)

@suite.cli.cli.command("try")
def verb():
{body}

{before}
suite.cli.main(["try"])
"""


def program(body: str, before: str = "") -> list[str]:
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    return [sys.executable, "-c", WITH_VERB.format(body=indented, before=before)]


def run(body: str, before: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(program(body, before), text=True, timeout=60, **streams)  # type: ignore[call-overload,no-any-return]  # the streams are what a test needs


@pytest.mark.parametrize(
    ("error", "last_line"),
    [
        ("InputError('a disk does not answer')", "suite: a disk does not answer"),
        ("RuntimeError('not foreseen')", "RuntimeError: not foreseen"),
    ],
)
def test_a_child_that_does_not_end_does_not_keep_the_command(error: str, last_line: str) -> None:
    body = f"multiprocessing.Process(target=hang).start()\nraise {error}"
    started = time.monotonic()
    done = run(body, "suite.leaving._CHILDREN_END_S = 0.5")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == last_line
    assert time.monotonic() - started < 15  # the child sleeps for 20


def test_a_process_that_stays_whole_flushes_closes_and_keeps_its_code() -> None:
    body = (
        "import atexit\n"
        "atexit.register(print, 'closed')\n"
        "suite.leaving.stay_whole()\n"
        "print('said', end=' ')\n"
        "raise Diverged('loss is nan')"
    )
    done = run(body)
    assert done.returncode == 5
    assert done.stdout == "said closed\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("whole", [True, False])
def test_output_that_cannot_be_written_is_one_sentence(whole: bool) -> None:
    body = "suite.leaving.stay_whole()\n" * whole + "print('x' * 100000)"
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = run(body, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "suite: the output cannot be written: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_errors_that_nobody_can_read_keep_their_code() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        assert run("raise Diverged('loss is nan')", stderr=full).returncode == 5


def test_sigterm_cleans_up(tmp_path: Path) -> None:
    body = (
        "try:\n"
        "    print('ready', flush=True); time.sleep(60)\n"
        f"finally: open({str(tmp_path / 'cleaned')!r}, 'w').close()\n"
    )
    assert terminate(program(body)) == 143
    assert (tmp_path / "cleaned").exists()


def test_sigterm_ends_what_hangs_in_a_library() -> None:
    """C's `system` waits on after a signal; Python looks at those only when it has returned."""
    body = "print('ready', flush=True); ctypes.CDLL(None).system(b'exec sleep 30 >&-')"
    started = time.monotonic()
    assert terminate(program(body, "suite.leaving._TERMINATE_S = 0.5")) == 143
    assert time.monotonic() - started < 20


def test_a_handler_of_its_own_takes_its_time() -> None:
    """As training's, which saves."""
    body = (
        "import signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1.5), sys.exit(7)))\n"
        "print('ready', flush=True); time.sleep(60)\n"
    )
    assert terminate(program(body, "suite.leaving._TERMINATE_S = 0.2")) != 143


def terminate(command: list[str]) -> int:
    """Start a command, wait for its line, send SIGTERM and return the exit code."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.2)
        process.terminate()
        return process.wait(timeout=40)
