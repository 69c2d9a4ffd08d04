"""The flags of the Ascend ModelZoo's scripts, rewritten to ours before click parses.

`FLAGS` is the one table: an old flag, and how it is read in training and in evaluation. Three
things only a whole line settles: a batch is per device there and over all devices here, `--nnodes`
above 1 makes `suite launch` of `suite train`, and `--mode eval` makes `suite eval` of it.
recipes/FROM_MODELZOO.md maps the old commands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from suite.cli.seed_line import Line, parse_line
from suite.cli.seed_readings import (
    PATTERNS,
    Reading,
    Subject,
    among_machines,
    assign,
    become,
    compare,
    read_backbone,
    read_batch,
    read_data_path,
    read_gpu_ids,
    read_gpus,
    read_ground_truth,
    read_master,
    read_mode,
    read_num_machines,
    read_opt_level,
    read_pattern,
    say,
)
from suite.errors import InputError, UsageError

_HELP: Final = {"-h", "--help"}
_OF_LAUNCH: Final = ("--nnodes", "--node-rank", "--master", "--local-addr")
_NOT_IN_EVAL: Final = say(": not used in evaluation")


@dataclass(frozen=True, kw_only=True)
class SeedFlag:
    """An old flag: a value it may have, how it is read, and whether only the SSD has it."""

    example: str
    in_training: Reading
    in_eval: Reading = _NOT_IN_EVAL
    is_ssd: bool = False


FLAGS: Final[Mapping[str, SeedFlag]] = {
    "--data_path": SeedFlag(
        example="data/coco2017", in_training=read_data_path, in_eval=read_data_path
    ),
    "--batch_size": SeedFlag(example="8", in_training=read_batch),
    "--nnodes": SeedFlag(example="2", in_training=read_num_machines),
    "--node_rank": SeedFlag(example="0", in_training=among_machines("--node-rank")),
    "--master_addr": SeedFlag(example="10.0.0.1", in_training=read_master),
    "--master_port": SeedFlag(example="23333", in_training=say(": the port of --master")),
    "--local_addr": SeedFlag(example="10.0.0.2", in_training=among_machines("--local-addr")),
    "--opt-level": SeedFlag(example="O1", in_training=read_opt_level),
    "--addr": SeedFlag(example="10.0.0.1", in_training=read_master),
    "--seed": SeedFlag(example="0", in_training=assign("seed")),
    "--gpu-ids": SeedFlag(example="0,1", in_training=read_gpu_ids),
    "--work-dir": SeedFlag(
        example="runs", in_training=become("--output"), in_eval=become("--output")
    ),
    "--gpus": SeedFlag(example="8", in_training=read_gpus, in_eval=read_gpus),
    "--mode": SeedFlag(
        example="train_and_eval", in_training=read_mode, in_eval=read_mode, is_ssd=True
    ),
    "--train_batch_size": SeedFlag(example="32", in_training=read_batch, is_ssd=True),
    "--eval_batch_size": SeedFlag(
        example="32",
        in_training=say(": changes nothing in training, whose evaluation has its own batch"),
        in_eval=become("--batch"),
        is_ssd=True,
    ),
    "--training_file_pattern": SeedFlag(
        example="'records/train2017*'", in_training=read_pattern, is_ssd=True
    ),
    "--validation_file_pattern": SeedFlag(
        example="'records/val2017*'",
        in_training=read_pattern,
        in_eval=compare("val.annotations"),
        is_ssd=True,
    ),
    "--val_json_file": SeedFlag(
        example="annotations/instances_val2017.json",
        in_training=read_ground_truth,
        in_eval=compare("val.ground_truth"),
        is_ssd=True,
    ),
    "--resnet_checkpoint": SeedFlag(
        example="pretrain/model.ckpt-28152", in_training=read_backbone, is_ssd=True
    ),
    "--model_dir": SeedFlag(
        example="runs", in_training=become("--output"), in_eval=become("--output"), is_ssd=True
    ),
}


def rewrite_seed_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return a command line with the old flags of `train` and `launch` rewritten, and the notes.

    Args:
        argv: without the program's name; one without old flags comes back as it is.

    Returns:
        the new command line, and a sentence for each flag that was rewritten.

    Raises:
        UsageError: an old flag has a wrong value or none, stands twice, or says what another says.
        InputError: `--mode eval` finds no checkpoint.
    """
    verb, names = list(argv[:1]), {token.partition("=")[0] for token in argv[1:]}
    if verb not in (["train"], ["launch"]) or not names & set(FLAGS):
        return list(argv), []
    if names & _HELP:
        return [*verb, "--help"], []
    line = parse_line(argv, {name: flag.example for name, flag in FLAGS.items()})
    if not line.old:  # a flag that this verb has itself
        return list(argv), []
    _require_one_recipe(line)
    return _rewrite_evaluation(line) if line.mode == "eval" else _rewrite_training(line)


def _require_one_recipe(line: Line) -> None:
    if len(line.words) > 1:
        torn = [flag for flag in PATTERNS if flag in line.old]
        remedy = f"; put the pattern of {torn[0]} in quotes" if torn else ""
        raise UsageError(f"{line.words[1]!r}: expected one recipe, this is a second{remedy}")


def _rewrite_training(line: Line) -> tuple[list[str], list[str]]:
    recipe = _find_recipe(line)
    options, notes = _rewrite_flags(line, Subject(recipe=recipe))
    verb = "launch" if line.launches else "train"
    of_launch = [word for option in options if option[0] in _OF_LAUNCH for word in option]
    others = [word for option in options if option[0] not in _OF_LAUNCH for word in option]
    return [verb, *line.kept_first, *of_launch, recipe, *others, *line.kept], notes


def _find_recipe(line: Line) -> str:
    """Return the recipe of a line; the SSD's script knows one detector and names none."""
    if line.words:
        return line.words[0]
    first = next(iter(line.old))
    if not any(FLAGS[flag].is_ssd for flag in line.old):
        command = f"suite {line.verb} retinanet_r50_fpn_8p {first}"
        raise UsageError(f"{first}: for which recipe? Name it, such as: {command} ...")
    return "ssd_r34_8p" if line.count_devices() == 8 else "ssd_r34_1p"


def _rewrite_evaluation(line: Line) -> tuple[list[str], list[str]]:
    checkpoint = _find_newest_checkpoint(line)
    options, notes = _rewrite_flags(line, Subject(checkpoint=checkpoint))
    words = [word for option in options for word in option]
    return ["eval", str(checkpoint), *words, *line.kept], notes


def _find_newest_checkpoint(line: Line) -> Path:
    """Return the last checkpoint of the run that saved last, among those of the recipe if named."""
    from suite.recipe import load_recipe

    folders = (line.old.get("--model_dir"), line.old.get("--work-dir"), line.own.get("--output"))
    folder = Path(next((one for one in folders if one), "runs"))
    name = re.escape(load_recipe(line.words[0]).name) if line.words else ".+"
    found = [
        path
        for path in folder.glob("*/checkpoints/step-*.pth")
        if re.fullmatch(rf"{name}-\d+", path.parts[-3])
    ]
    if not found:
        of_recipe = f" of recipe {line.words[0]}" if line.words else ""
        raise InputError(
            f"--mode eval: no checkpoint of a run{of_recipe} in {folder}; train first, or name the "
            "folder of the runs with --model_dir"
        )
    newest = max(found, key=lambda path: path.stat().st_mtime_ns).parent
    return max(path for path in found if path.parent == newest)


def _rewrite_flags(line: Line, subject: Subject) -> tuple[list[tuple[str, ...]], list[str]]:
    """Read the old flags in the order in which they stand; return options and notes.

    Raises:
        UsageError: two flags, old or ours, say the same thing.
    """
    options: list[tuple[str, ...]] = []
    notes = []
    said_by = {name: name for name in (*line.own, *(f"--set {key}" for key in line.settings))}
    for flag, value in line.old.items():
        read = FLAGS[flag].in_eval if line.mode == "eval" else FLAGS[flag].in_training
        new = read(flag, line, subject)
        for option in new.options:
            name = " ".join(option).partition("=")[0] if option[0] == "--set" else option[0]
            if said_by.setdefault(name, flag) != flag:
                raise UsageError(f"{flag} and {said_by[name]} say the same; give one of them")
        options += new.options
        told = shlex.join(word for option in new.options for word in option)
        is_read = f" is read as {told}" if told else ""
        notes.append(f"{flag} {shlex.quote(value)}{is_read}{new.remark}")
    return options, notes
