"""Verbs and flags. Everything heavy is imported inside the verb that needs it.

stdout carries results, stderr logs and progress. Exit codes: 0 done, 1 failure, 2 usage or recipe,
3 a check failed, 4 environment, 5 training diverged, 6 a process of several was lost, 130/143
stopped by a signal after saving.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
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
    report_verbs,
    run_verbs,
    weights_verbs,
)
from suite.cli.flags import is_speaking
from suite.cli.seed_flags import rewrite_seed_flags
from suite.errors import SuiteError
from suite.launch.heartbeat import LAUNCHED, follow_launcher
from suite.leaving import TERMINATED, Terminated, ending_at_sigterm, leave

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
        with ending_at_sigterm():
            words, notes = rewrite_seed_flags(words)
            for note in notes if is_speaking() else ():
                click.echo(note, err=True)
            cli.main(words, obj=words, prog_name="suite", standalone_mode=False)
            sys.stdout.flush()
            return 0
    except BaseException as error:  # noqa: BLE001 - whatever it is, the process ends by `leave`
        if isinstance(error, OSError) and _is_of_output(error):
            # What is still to be flushed would fail again as Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        with suppress(OSError):  # nobody listens there either
            _tell(error)
        return _exit_code(error)


def _is_of_output(error: OSError) -> bool:
    """Whether standard output failed: the reader has gone (`suite ... | head`), a disk is full."""
    return error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC)


def _tell(error: BaseException) -> None:
    if isinstance(error, click.ClickException):
        error.show()
    elif isinstance(error, SuiteError):
        if os.environ.get("SUITE_DEBUG") == "1":
            traceback.print_exception(error)
        if not _told_by_launcher():
            click.echo(f"suite: {error}", err=True)
    elif isinstance(error, click.Abort | KeyboardInterrupt):
        click.echo("suite: stopped", err=True)
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC and _is_of_output(error):
        click.echo(f"suite: the output cannot be written: {error.strerror}", err=True)
    elif not isinstance(error, Terminated | BrokenPipeError):
        traceback.print_exception(error)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, Terminated):
        return TERMINATED
    if isinstance(error, click.ClickException | SuiteError):
        return error.exit_code
    return 130 if isinstance(error, click.Abort | KeyboardInterrupt) else 1


def _told_by_launcher() -> bool:
    """Whether whoever started this rank shares our terminal, and will say what went wrong."""
    return LAUNCHED in os.environ and os.environ.get("LOCAL_RANK") == "0"


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
    report_verbs,
    quantize_verbs,
    weights_verbs,
    run_verbs,
):
    for verb in room.VERBS:
        cli.add_command(verb)
