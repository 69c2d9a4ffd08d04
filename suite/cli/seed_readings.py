"""How one old flag of the Ascend ModelZoo's scripts is read; `seed_flags` has the table of them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple

from suite.cli.seed_line import Line, read_count
from suite.errors import UsageError

PATTERNS: Final = ("--training_file_pattern", "--validation_file_pattern")
# That of the old script for several machines.
_PORT: Final = "23333"
_ONE_MACHINE: Final = ": not needed on one machine"


class Subject(NamedTuple):
    """What is to be trained or evaluated: a recipe's name or file, or a checkpoint."""

    recipe: str = ""
    checkpoint: Path = Path()


class New(NamedTuple):
    """What an old flag becomes: options, each with its value, and what else is said about it."""

    options: tuple[tuple[str, ...], ...] = ()
    remark: str = ""


Reading = Callable[[str, Line, Subject], New]


def become(option: str) -> Reading:
    """Read a flag as one of ours with the same value."""
    return lambda flag, line, _: New(((option, line.old[flag]),))


def assign(key: str) -> Reading:
    """Read a flag as a field of the recipe."""
    return lambda flag, line, _: New((("--set", f"{key}={line.old[flag]}"),))


def say(remark: str) -> Reading:
    """Read a flag as nothing but a remark."""
    return lambda _flag, _line, _subject: New(remark=remark)


def read_opt_level(flag: str, line: Line, _: Subject) -> New:
    """Read apex's level; its O2, which also casts the weights, is no other precision here."""
    level = line.old[flag]
    remark = " (the same as O1: weights stay fp32)" if level == "O2" else ""
    return New((("--set", f"precision={level}"),), remark)


def read_data_path(flag: str, line: Line, _: Subject) -> New:
    """Read the folder of the data, or of the folder `coco` with it."""
    inner = Path(line.old[flag], "coco")
    if inner.is_dir():
        return New((("--data", str(inner)),), " (the old scripts look there too)")
    return New((("--data", line.old[flag]),))


def read_batch(flag: str, line: Line, subject: Subject) -> New:
    """Read the images a step and device."""
    from suite.recipe import load_recipe

    batch = read_count(flag, line.old[flag])
    devices = line.count_devices() or load_recipe(subject.recipe).devices
    option = ("--set", f"global_batch={batch * devices}")
    return New((option,), f" ({batch} x {devices} device{'s' * (devices > 1)})")


def read_gpus(flag: str, line: Line, _: Subject) -> New:
    """Read the number of devices of a machine; of several, one evaluates."""
    if "--gpu-ids" in line.old:
        raise UsageError("--gpus and --gpu-ids say the same; give one of them")
    count, machines = read_count(flag, line.old[flag]), line.count_machines()
    machines = 1 if line.mode == "eval" else machines
    remark = f" ({count} x {machines} machines)" if machines > 1 else ""
    return New((("--devices", str(count * machines)),), remark)


def read_gpu_ids(flag: str, line: Line, _: Subject) -> New:
    """Read which devices of this machine; their numbers need not be those of another one."""
    if re.fullmatch(r"[0-9]+(,[0-9]+)*", line.old[flag]) is None:
        raise UsageError(f"{flag} {line.old[flag]!r}: expected numbers of devices, such as 0,1")
    if line.launches:
        raise UsageError(
            f"{flag} {line.old[flag]}: chooses devices of one machine; of several, set "
            "ASCEND_RT_VISIBLE_DEVICES on each and give their number with --gpus"
        )
    return New((("--device-ids", line.old[flag]),))


def read_num_machines(flag: str, line: Line, _: Subject) -> New:
    """Read the number of machines; several are started by another verb."""
    if not line.launches:
        return New(remark=_ONE_MACHINE)
    return New(((flag, line.old[flag]),), f", of suite launch in place of suite {line.verb}")


def among_machines(option: str) -> Reading:
    """Read a flag as one of `suite launch`; alone, a machine has no use for it."""

    def read(flag: str, line: Line, _: Subject) -> New:
        value = line.old[flag]
        if line.launches:
            return New(((option, value),))
        if flag == "--node_rank" and value != "0":
            raise UsageError(f"{flag} {value}: of how many machines? Add --nnodes=2")
        return New(remark=_ONE_MACHINE)

    return read


def read_master(flag: str, line: Line, _: Subject) -> New:
    """Read the first machine's address, which goes with the port."""
    if not line.launches:
        return New(remark=_ONE_MACHINE)
    port = line.old.get("--master_port", _PORT)
    return New((("--master", f"{line.old[flag]}:{port}"),))


def read_mode(_flag: str, line: Line, subject: Subject) -> New:
    """Read whether the weights are evaluated at the end; `eval` is another verb altogether."""
    if line.mode == "train":
        return New((("--no-eval",),))
    if line.mode == "eval":
        return New(remark=f" is read as suite eval of the newest checkpoint, {subject.checkpoint}")
    return New(remark=": the final weights are evaluated, as always")


def read_pattern(flag: str, line: Line, _: Subject) -> New:
    """Read one of the two patterns of TFRecords; the folder that holds both is the data's root."""
    for other in PATTERNS:
        if other not in line.old:
            raise UsageError(f"{flag} needs {other} too: both splits are of one format")
    paths = [Path(line.old[pattern]) for pattern in PATTERNS]
    if paths[0].is_absolute() != paths[1].is_absolute():
        paths = [path.absolute() for path in paths]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    index = PATTERNS.index(flag)
    split, pattern = ("train", "val")[index], paths[index].relative_to(root)
    settings = [f"data.{split}.annotations={pattern}", f"data.{split}.images=null"]
    options = [("--set", setting) for setting in settings]
    if split == "train":
        options = [("--data", str(root)), ("--set", "data.format=tfrecord"), *options]
    return New(tuple(options))


def read_ground_truth(flag: str, line: Line, _: Subject) -> New:
    """Read the file that evaluation is judged by."""
    return New((("--set", f"data.val.ground_truth={_absolute(line.old[flag])}"),))


def read_backbone(flag: str, line: Line, _: Subject) -> New:
    """Read the name of a TensorFlow checkpoint, which has to be translated already."""
    name = line.old[flag]
    translated = f"{name}.pth"
    if not Path(translated).is_file():
        command = ["suite", "weights", "import", name, "--from", "tf-resnet34"]
        raise UsageError(
            f"{flag} {name}: {translated} is not there; TensorFlow's weights are translated once, "
            f"then this command finds them: {shlex.join([*command, '--output', translated])}"
        )
    settings = (f"detector.backbone_weights={translated}", "detector.padding=same")
    return New(tuple(("--set", setting) for setting in settings))


def compare(key: str) -> Reading:
    """Hold what evaluation is told about its data against what the run was trained with."""

    def read(flag: str, line: Line, subject: Subject) -> New:
        from suite.recipe import load_recipe

        path = subject.checkpoint.parent.parent / "recipe.yaml"
        data = load_recipe(str(path)).data
        stored = attrgetter(key)(data)
        if stored is None or _absolute(Path(data.root, stored)) != _absolute(line.old[flag]):
            raise UsageError(
                f"{flag} {line.old[flag]}: {path}, the recipe of the run, has data.{key} {stored} "
                f"in {data.root}; for other data change a copy of it and run: "
                f"suite eval {shlex.quote(str(subject.checkpoint))} --recipe COPY"
            )
        return New(remark=": as the run was trained")

    return read


def _absolute(path: str | Path) -> str:
    """Return a path from the root, `..` resolved, which pathlib does not do without the disk."""
    return os.path.abspath(path)  # noqa: PTH100
