"""Exceptions that are shown to people as one clear sentence, and the exit code of each.

Everything a user can cause derives from `SuiteError`; the command line prints its message without a
traceback (``SUITE_DEBUG=1`` shows it) and leaves with `exit_code`.
"""


class SuiteError(Exception):
    """A failure with a message for people: what is wrong, the value, and what would be right."""

    exit_code = 1


class InputError(SuiteError):
    """An input file is missing, damaged, hostile or not ours."""

    exit_code = 1


class UsageError(SuiteError):
    """A flag or a recipe is wrong."""

    exit_code = 2


class CheckFailed(SuiteError):
    """A check ran to its end and its answer is no (verify, data check, export)."""

    exit_code = 3


class MissingEnvironment(SuiteError):
    """A device, driver or optional package is absent; the message holds the remedy."""

    exit_code = 4


class Diverged(SuiteError):
    """Training has gone wrong for good: weights, loss or gradients are not what they can be."""

    exit_code = 5


class RankLost(SuiteError):
    """A process of a run on several devices died, hangs or cannot be reached."""

    exit_code = 6


class Stopped(SuiteError):
    """A signal asked us to stop and the state has been saved."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
