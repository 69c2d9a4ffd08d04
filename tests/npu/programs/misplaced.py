"""Train with a step that leaves something where it must not be, each in turn; errors as JSON.

Arguments: a recipe, and a folder for the runs.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from suite.cli import cli
from suite.data.collating import Batch
from suite.device import Device
from suite.training import loop

train_step = loop.train_step


def observe(recipe: str, output: str) -> dict[str, str]:
    cpu = torch.device("cpu")
    arguments = ["train", recipe, "--device", "npu", "--no-eval", "--output", output]
    errors = {"nothing": error_of(arguments)}
    spoil(lambda batch: replace(batch, target=batch.target.to(cpu)))
    errors["target"] = error_of(arguments)
    spoil(lambda batch: replace(batch, images=batch.images.to(cpu)))
    errors["images"] = error_of(arguments)
    loop.train_step = train_step
    Device.memory_format = torch.channels_last  # type: ignore[misc, assignment]
    errors["layout"] = error_of(arguments)
    return errors


def spoil(change: Callable[[Batch], Batch]) -> None:
    """Let each step get what `change` makes of its batch."""
    loop.train_step = lambda batch, *rest: train_step(change(batch), *rest)


def error_of(arguments: list[Any]) -> str:
    try:
        cli.main(arguments, obj=arguments, standalone_mode=False)
    except RuntimeError as error:
        return str(error)
    return "none"


errors = observe(*sys.argv[1:])
print(json.dumps(errors))
