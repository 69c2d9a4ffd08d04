"""The command line of the suite on an NPU whose overflow flag rises in one rank and step.

Arguments: the rank, the step (from 1), and those of `suite`.
"""

import os
import sys
from itertools import count
from typing import Any

from suite.cli import main
from suite.training import loop

train_step = loop.train_step
rank, fault_step, *arguments = sys.argv[1:]
steps = count(1)


def overflow_in_one_step(*given: Any) -> Any:
    if next(steps) == int(fault_step) and os.environ.get("RANK", "0") == rank:
        sys.modules["torch_npu"].npu.simulation.overflow()
    return train_step(*given)


loop.train_step = overflow_in_one_step
main(arguments)
