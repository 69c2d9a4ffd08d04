"""Verbs and flags. Everything heavy is imported inside the verb that needs it.

stdout carries results, stderr logs and progress. Exit codes: 0 done, 1 failure, 2 usage or recipe,
3 a check failed, 4 environment, 5 training diverged, 6 a process of several was lost, 130/143
stopped by a signal after saving.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

from suite import __version__
from suite.cli import (
    bench_verbs,
    data_verbs,
    deploy_verbs,
    inspect_verbs,
    launch_verbs,
    model_verbs,
    project_verbs,
    quantize_verbs,
    rank_table_verbs,
    run_verbs,
    weights_verbs,
)
from suite.cli.flags import is_speaking
from suite.cli.seed_flags import rewrite_seed_flags
from suite.errors import SuiteError
from suite.launch.heartbeat import LAUNCHED, follow_launcher
from suite.leaving import leave

# torch_npu's autoload breaks `import torch` where CANN is missing; suite.device imports it itself.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

_EPILOG = (
    "Exit codes: 0 done, 1 failure, 2 usage or recipe, 3 a check failed, 4 environment, "
    "5 training diverged, 6 a process of several was lost, 130/143 stopped by a signal after "
    "saving."
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    follow_launcher()
    leave(_run(list(sys.argv[1:] if arguments is None else arguments)))


def _run(words: list[str]) -> int:
    try:
        with _ending_at_sigterm():
            words, notes = rewrite_seed_flags(words)
            for note in notes if is_speaking() else ():
                click.echo(note, err=True)
            cli.main(words, obj=words, prog_name="suite", standalone_mode=False)
            return 0
    except _Terminated:
        return 143
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SuiteError as error:
        if os.environ.get("SUITE_DEBUG") == "1":
            traceback.print_exc()
        if not _told_by_launcher():
            click.echo(f"suite: {error}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("suite: stopped", err=True)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`suite ... | head`); Python must not say so at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _told_by_launcher() -> bool:
    """Whether whoever started this rank shares our terminal, and will say what went wrong."""
    return LAUNCHED in os.environ and os.environ.get("LOCAL_RANK") == "0"


class _Terminated(BaseException):
    """SIGTERM came."""


@contextmanager
def _ending_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process as an exception does: temporary files go on the way out.

    Training has its own handler, which saves first.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="suite")
def cli() -> None:
    """Train, export, verify, measure and compare object detectors.

    recipe -> train -> checkpoint -> export -> record -> report
    """


for room in (
    model_verbs,
    deploy_verbs,
    inspect_verbs,
    bench_verbs,
    launch_verbs,
    rank_table_verbs,
    data_verbs,
    project_verbs,
    quantize_verbs,
    weights_verbs,
    run_verbs,
):
    for verb in room.VERBS:
        cli.add_command(verb)
