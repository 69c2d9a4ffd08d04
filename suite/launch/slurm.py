"""What Slurm tells a process: whether it is a task of srun, and which host is the first.

Slurm shortens lists of hosts: `n[01-03,07],gpu5` is n01, n02, n03, n07 and gpu5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from suite.errors import UsageError

_NUMBERS: Final = r"\[[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*\]"
_HOST: Final = rf"(?:[A-Za-z0-9._-]|{_NUMBERS})+"
_LIST: Final = re.compile(rf"({_HOST})(?:,{_HOST})*")

# Slurm gives shells and batch scripts step ids from here on (slurm.h: SLURM_MAX_NORMAL_STEP_ID).
_FIRST_SPECIAL_STEP: Final = 0xFFFFFFF0
_SHELLS: Final = ("bash", "sh", "zsh", "fish", "csh", "tcsh")


def is_task_of_srun(environ: Mapping[str, str]) -> bool:
    """Whether srun started this process, and not a shell or batch script inside an allocation.

    The name of the job does not tell: tasks that srun starts inside of `salloc` see its
    "interactive". A shell of `srun --pty bash` is the first task of an allocation named after it.
    """
    step, task = environ.get("SLURM_STEP_ID", ""), environ.get("SLURM_PROCID", "")
    if not step.isdecimal() or int(step) >= _FIRST_SPECIAL_STEP or not task:
        return False
    name = environ.get("SLURM_JOB_NAME", "").rpartition("/")[2]
    is_shell = "SLURM_PTY_PORT" in environ and name in _SHELLS and int(step) == 0 and task == "0"
    return not is_shell


def first_host(nodelist: str) -> str:
    """Return the first host of a list, that of the first task.

    Raises:
        UsageError: it is no such list.
    """
    found = _LIST.fullmatch(nodelist)
    if found is None:
        raise UsageError(f"Slurm: {nodelist!r} is not a list of hosts such as 'n[01-03,07],gpu5'")
    return re.sub(r"\[([0-9]+)[^\]]*\]", r"\1", found[1])
