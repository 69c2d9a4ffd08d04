"""The old flags of the Ascend ModelZoo's scripts, and the two pages that map its commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from suite.cli import cli
from suite.cli.flags import load_recipe_with
from suite.cli.seed_flags import FLAGS, rewrite_seed_flags
from suite.errors import InputError, UsageError
from suite.recipe import Recipe, list_shipped_recipes, load_recipe, write_recipe

PAGES = ("FROM_MODELZOO.md", "FROM_MODELZOO.zh.md")
MULTI = "--nnodes=2 --node_rank=1 --master_addr=10.0.0.1 --local_addr=10.0.0.2"
PATTERNS = "--training_file_pattern=/d/train2017* --validation_file_pattern=/d/val2017*"


def rewrite(text: str) -> str:
    return shlex.join(rewrite_seed_flags(shlex.split(text))[0])


def parse(command: str) -> click.Context:
    """Parse `suite ...` as `main` does, without running it."""
    words, _ = rewrite_seed_flags(shlex.split(command, comments=True)[1:])
    context = cli.make_context("suite", words)
    group: click.Group = cli
    while True:
        name, verb, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        assert verb is not None and name is not None
        context = verb.make_context(name, rest, parent=context)
        if not isinstance(verb, click.Group):
            return context
        group = verb


def recipe_of(context: click.Context) -> Recipe:
    """Load the recipe of `suite train`, or that of `suite launch` with the flags that follow it."""
    if context.info_name == "launch":
        words = [context.params["recipe"], *context.params["train_flags"]]
        context = cli.commands["train"].make_context("train", words)
    names = ("recipe", "data", "device", "devices", "device_ids", "assignments", "cache")
    return load_recipe_with(**{name: context.params.get(name) for name in names})[0]


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_run(folder: Path, *steps: int, saved_at: int, **overrides: str) -> None:
    """Leave behind what a run does: its recipe and checkpoints."""
    (folder / "checkpoints").mkdir(parents=True)
    keys = {key.replace("__", "."): text for key, text in overrides.items()}
    write_recipe(load_recipe("ssd_r34_8p", keys), folder / "recipe.yaml")
    for step in steps:
        path = folder / "checkpoints" / f"step-{step:08d}.pth"
        path.touch()
        os.utime(path, (saved_at, saved_at))


# Named in a sentence, without what they need.
VERBS = {"suite train", "suite train RECIPE", "suite launch", "suite weights import"}
OF_RECORDS = {
    "data__root": "/d",
    "data__format": "tfrecord",
    "data__train__annotations": "train2017*",
    "data__train__images": "null",
    "data__val__annotations": "val2017*",
    "data__val__images": "null",
    "data__val__ground_truth": "/a/val.json",
}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--version"],
        ["train"],
        ["train", "ssd_r34_1p", "--device", "cpu", "--devices=1", "--data", "x", "--output", "o",
         "--set", "seed=1", "--resume", "runs/a-1", "--no-eval", "--cache", "ram"],
        ["eval", "x.pth", "--batch_size", "3"],
        ["recipes", "show", "ssd_r34_1p", "--seed", "3"],
        ["train", "demo", "--sead", "3"],
        ["launch", "--nnodes", "2", "--node-rank", "1", "--master", "10.0.0.1", "demo", "--json"],
    ],
)  # fmt: skip
def test_what_has_no_old_flag_is_left_alone(words: list[str]) -> None:
    assert rewrite_seed_flags(words) == (words, [])


def test_launch_has_some_of_the_flags_itself() -> None:
    old = "--nnodes 2 --master_addr 10.0.0.1 --dry-run --master_port=2000 --node_rank 1"
    for line in (f"{old} retinanet_r50_fpn_multinode", f"retinanet_r50_fpn_multinode {old}"):
        context = parse(f"suite launch {line} --batch_size=4 --set seed=7")
        assert (context.params["nnodes"], context.params["node_rank"]) == (2, 1)
        assert (context.params["master"], context.params["dry_run"]) == ("10.0.0.1:2000", True)
        recipe = recipe_of(context)
        assert (recipe.global_batch, recipe.seed) == (64, 7)


def test_launch_counts_its_hosts() -> None:
    line = "launch --hosts a,b,c retinanet_r50_fpn_multinode --gpus=4 --batch_size=2"
    recipe = recipe_of(parse(f"suite {line}"))
    assert (recipe.devices, recipe.global_batch) == (12, 24)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--data_path=/data/xxx/", "--data /data/xxx/"),
        ("--data_path /data/xxx/", "--data /data/xxx/"),
        ("--batch_size=4", "--set global_batch=32"),
        ("--train_batch_size 4", "--set global_batch=32"),
        ("--batch_size 4 --devices 2", "--set global_batch=8 --devices 2"),
        ("--devices=2 --batch_size 4", "--set global_batch=8 --devices=2"),
        ("--batch_size 4 --set devices=2", "--set global_batch=8 --set devices=2"),
        ("--batch_size 4 --gpus 2", "--set global_batch=8 --devices 2"),
        ("--gpu-ids 0,3 --batch_size 4", "--device-ids 0,3 --set global_batch=8"),
        ("--gpu-ids 0 3", "--device-ids 0,3"),
        ("--batch_size 4 --device-ids 1,2,5", "--set global_batch=12 --device-ids 1,2,5"),
        ("--opt-level=O1", "--set precision=O1"),
        ("--seed 7", "--set seed=7"),
        ("--work-dir 'my runs'", "--output 'my runs'"),
        ("--model_dir=r", "--output r"),
        ("--mode=train", "--no-eval"),
        ("--mode=train_and_eval --eval_batch_size=32", ""),
        ("--nnodes=1 --node_rank=0 --addr=10.0.0.1 --local_addr=10.0.0.1 --master_port=1", ""),
        ("--seed 7 --json --set log_every_steps=1", "--set seed=7 --json --set log_every_steps=1"),
    ],
)
def test_an_old_flag_becomes_ours(in_folder: Path, old: str, new: str) -> None:
    expected = shlex.join(shlex.split(f"train retinanet_r50_fpn_8p {new}"))
    assert rewrite(f"train {old} retinanet_r50_fpn_8p") == expected
    assert rewrite(f"train retinanet_r50_fpn_8p {old}") == expected


def test_every_rewritten_flag_is_told() -> None:
    _, notes = rewrite_seed_flags(
        [
            "train",
            "ssd_r34_8p",
            "--train_batch_size=32",
            "--eval_batch_size",
            "16",
            "--work-dir=a b",
        ]
    )
    assert notes == [
        "--train_batch_size 32 is read as --set global_batch=256 (32 x 8 devices)",
        "--eval_batch_size 16: changes nothing in training, whose evaluation has its own batch",
        "--work-dir 'a b' is read as --output 'a b'",
    ]


@pytest.mark.parametrize(
    ("level", "remark"),
    [("O0", ""), ("O1", ""), ("O2", " (the same as O1: weights stay fp32)")],
)
def test_o2_is_told_to_be_o1(level: str, remark: str) -> None:
    words, notes = rewrite_seed_flags(["train", "ssd_r34_8p", f"--opt-level={level}"])
    assert words == ["train", "ssd_r34_8p", "--set", f"precision={level}"]
    assert notes == [f"--opt-level {level} is read as --set precision={level}{remark}"]


def test_data_may_lie_in_a_folder_coco(in_folder: Path) -> None:
    (in_folder / "coco").mkdir()
    assert rewrite("train demo --data_path=.") == "train demo --data coco"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (MULTI, ""),
        (f"{MULTI} --gpus=4", "--devices 8"),
        (f"{MULTI} --batch_size=2", "--set global_batch=32"),
        (f"{MULTI} --gpus=4 --batch_size=2", "--devices 8 --set global_batch=16"),
    ],
)
def test_several_machines_are_launched(old: str, new: str) -> None:
    machines = "--nnodes 2 --node-rank 1 --master 10.0.0.1:23333 --local-addr 10.0.0.2"
    expected = f"launch {machines} retinanet_r50_fpn_multinode {new}".strip()
    assert rewrite(f"train retinanet_r50_fpn_multinode {old}") == expected


@pytest.mark.parametrize(("gpus", "recipe"), [("", "1p"), (" --gpus=8", "8p"), (" --gpus=4", "1p")])
def test_the_flags_of_the_ssd_need_no_recipe(gpus: str, recipe: str) -> None:
    context = parse(f"suite train --mode=train_and_eval --train_batch_size=32{gpus}")
    assert context.params["recipe"] == f"ssd_r34_{recipe}"
    trained = recipe_of(context)
    assert trained.global_batch == 32 * trained.devices
    assert trained.devices == int(gpus.partition("=")[2] or 1)


@pytest.mark.parametrize(
    ("train", "val", "root", "relative"),
    [
        ("/d/r/train2017*", "/d/r/val2017*", "/d/r", ("train2017*", "val2017*")),
        ("/d/a/t*", "/d/b/v*", "/d", ("a/t*", "b/v*")),
        ("r/t*", "r/v*", "r", ("t*", "v*")),
        ("t*", "v*", ".", ("t*", "v*")),
        ("../x=y/t: #*", "~/v*", ".", ("../x=y/t: #*", "~/v*")),
    ],
)
def test_patterns_become_one_root_and_two_patterns(
    train: str, val: str, root: str, relative: tuple[str, str]
) -> None:
    patterns = f"'--training_file_pattern={train}' '--validation_file_pattern={val}'"
    data = recipe_of(parse(f"suite train {patterns} --val_json_file=/a/val.json")).data
    assert (data.format, data.root) == ("tfrecord", root)
    assert (data.train.annotations, data.val.annotations) == relative
    assert (data.train.images, data.val.images) == (None, None)
    assert data.val.ground_truth == "/a/val.json"


def test_what_is_relative_is_relative_to_the_working_folder(in_folder: Path) -> None:
    train = in_folder.parent / "records" / "t*"
    data = recipe_of(
        parse(f"suite train --training_file_pattern={train} --validation_file_pattern='v*'"
              " --val_json_file=../a/val.json")
    ).data  # fmt: skip
    root = Path(data.root)
    assert root / data.train.annotations == train
    assert root / data.val.annotations == in_folder / "v*"
    assert data.val.ground_truth == str(in_folder.parent / "a" / "val.json")


def test_tensorflows_weights_are_found_translated(in_folder: Path) -> None:
    command = "suite train --resnet_checkpoint=model.ckpt-28152"
    with pytest.raises(UsageError) as error:
        parse(command)
    remedy = str(error.value).partition("finds them: ")[2]
    assert parse(remedy).params["output"] == Path("model.ckpt-28152.pth")
    Path("model.ckpt-28152.pth").touch()
    detector = recipe_of(parse(command)).detector
    assert (detector.backbone_weights, detector.padding) == ("model.ckpt-28152.pth", "same")


def test_eval_takes_the_last_checkpoint_of_the_run_that_saved_last(in_folder: Path) -> None:
    save_run(Path("r/ssd_r34_8p-1"), 900, saved_at=3_000)
    save_run(Path("r/ssd_r34_8p-10"), 20, 3, saved_at=9_000, **OF_RECORDS)
    save_run(Path("r/other-1"), 5, saved_at=5_000, name="other")
    save_run(Path("r/eval-step-00000020-1"), saved_at=9_999)
    everything = (
        f"--mode=eval --train_batch_size=32 {PATTERNS} --resnet_checkpoint=gone --gpus=8 "
        "--val_json_file=/a/val.json --eval_batch_size=16 --model_dir=r --device cpu"
    )
    newest = "r/ssd_r34_8p-10/checkpoints/step-00000020.pth"
    asked = "--devices 8 --batch 16 --output r --device cpu"
    assert rewrite(f"train {everything}") == f"eval {newest} {asked}"
    assert parse(f"suite train {everything}").params["devices"] == 8
    several = rewrite(f"train {everything} --nnodes=2 --node_rank=0 --master_addr=10.0.0.1")
    assert several == f"eval {newest} {asked}"
    Path("other.yaml").write_text(Path("r/other-1/recipe.yaml").read_text())
    found = rewrite("train other.yaml --mode eval --model_dir r")
    assert found == "eval r/other-1/checkpoints/step-00000005.pth --output r"


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--validation_file_pattern=/d/minival*", "val2017* in /d"),
        ("--val_json_file=/a/other.json", "/a/val.json"),
    ],
)
def test_eval_refuses_other_data_than_the_runs_own(in_folder: Path, flag: str, words: str) -> None:
    save_run(Path("runs/ssd_r34_8p-1"), 20, saved_at=1, **OF_RECORDS)
    with pytest.raises(UsageError, match=re.escape(words)) as error:
        rewrite(f"train --mode=eval {flag}")
    assert "suite eval runs/ssd_r34_8p-1/checkpoints/step-00000020.pth" in str(error.value)


def test_eval_without_a_checkpoint_says_where_it_looked(in_folder: Path) -> None:
    save_run(Path("r/ssd_r34_8p-1"), saved_at=1)
    with pytest.raises(InputError, match="in r; train first"):
        rewrite("train --mode=eval --model_dir=r")
    with pytest.raises(InputError, match="of recipe demo in runs"):
        rewrite("train demo --mode=eval")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ssd_r34_1p --mode=test", "'test': expected one of train, train_and_eval, eval"),
        ("ssd_r34_1p --batch_size=many", "--batch_size 'many': expected a whole number"),
        ("ssd_r34_1p --train_batch_size=0", "--train_batch_size '0': expected a whole number"),
        ("ssd_r34_1p --nnodes=two", "--nnodes 'two': expected a whole number"),
        ("ssd_r34_1p --batch_size=1 --devices=x", "--devices 'x': expected a whole number"),
        ("ssd_r34_1p --gpu-ids=0;1", "--gpu-ids '0;1': expected numbers of devices"),
        ("ssd_r34_1p --seed=1 --seed=2", "--seed: given twice"),
        ("ssd_r34_1p --batch_size", "--batch_size: needs a value, such as --batch_size=8"),
        ("ssd_r34_1p --data_path= --seed 1", "--data_path: needs a value"),
        ("ssd_r34_1p --data_path --seed 1", "--data_path: needs a value"),
        ("ssd_r34_1p --work-dir=a --output b", "--work-dir and --output say the same"),
        ("ssd_r34_1p --work-dir=a --model_dir=b", "--model_dir and --work-dir say the same"),
        ("ssd_r34_1p --data_path=a --data=b", "--data_path and --data say the same"),
        ("ssd_r34_1p --gpus=2 --devices=2", "--gpus and --devices say the same"),
        ("ssd_r34_1p --gpus=2 --gpu-ids=0,1", "--gpus and --gpu-ids say the same"),
        ("ssd_r34_1p --seed=2 --set seed=3", "--seed and --set seed say the same"),
        ("ssd_r34_1p --batch_size=2 --train_batch_size=2", "--train_batch_size and --batch_size"),
        (f"r.yaml {MULTI} --addr=10.0.0.1", "--addr and --master_addr say the same"),
        (f"r.yaml {MULTI} --gpu-ids=0,1", "ASCEND_RT_VISIBLE_DEVICES"),
        ("ssd_r34_1p --node_rank=1", "--node_rank 1: of how many machines"),
        ("ssd_r34_1p demo --seed=1", "'demo': expected one recipe"),
        ("--training_file_pattern a b c", "put the pattern of --training_file_pattern in quotes"),
        ("--training_file_pattern=a*", "needs --validation_file_pattern too"),
        ("--batch_size=8", "for which recipe? Name it, such as: suite train"),
        ("ssd_r34_9p --batch_size=8", "no shipped recipe (did you mean 'ssd_r34_8p'?)"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(line: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        rewrite(f"train {line}")
    assert words in str(error.value)


def test_the_command_line_reads_them(run_suite: Callable[..., Any], in_folder: Path) -> None:
    done = run_suite("train", "demo", "--batch_size=6", "--data_path=nowhere")
    assert done.code == 1
    told = "--batch_size 6 is read as --set global_batch=6 (6 x 1 device)\n"
    assert done.stderr.startswith(told)
    assert "nowhere" in done.stderr.splitlines()[-1]
    wrong = run_suite("train", "demo", "--mode=x")
    assert (wrong.code, wrong.stderr.count("\n")) == (2, 1)
    assert run_suite("train", "--mode=eval").code == 1
    assert run_suite("train", "--gpus=8", "--help").stdout == run_suite("train", "--help").stdout


def test_reading_them_imports_nothing_heavy() -> None:
    program = (
        "import sys; from suite.cli.seed_flags import rewrite_seed_flags as r; "
        "assert 'yaml' not in sys.modules; r(['train', 'ssd_r34_8p', '--batch_size=3']); "
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.fixture
def pages(repository: Path) -> list[str]:
    return [(repository / "recipes" / name).read_text(encoding="utf-8") for name in PAGES]


def find_commands(page: str) -> list[str]:
    joined = page.replace("\\\n", " ")
    return re.findall(r"(?:^|`)(suite [^`\n]+)", joined, re.MULTILINE)


@pytest.fixture
def after_the_import_and_a_run(in_folder: Path) -> Iterator[None]:
    """Leave what the pages' commands for the SSD left behind when that for evaluation is typed."""
    Path("pretrain").mkdir()
    Path("pretrain/model.ckpt-28152.pth").touch()
    of_page = {
        "data__root": "/data/records",
        "data__val__ground_truth": "/data/annotations/instances_val2017.json",
    }
    save_run(Path("result_npu/ssd_r34_8p-1"), 53_000, 54_000, saved_at=1, **OF_RECORDS | of_page)
    yield
    assert sorted(path.name for path in in_folder.iterdir()) == ["pretrain", "result_npu"]


@pytest.mark.usefixtures("after_the_import_and_a_run")
def test_every_command_of_the_pages_is_one(pages: list[str]) -> None:
    for page in pages:
        commands = find_commands(page)
        assert len(commands) > 25
        for command in (one for one in commands if one not in VERBS):
            context = parse(command)
            if context.info_name in ("train", "launch"):
                recipe_of(context)


@pytest.mark.usefixtures("after_the_import_and_a_run")
def test_the_pages_say_what_a_command_is_read_as(pages: list[str]) -> None:
    for page in pages:
        blocks = re.findall(r"```\n(.*?)```", page.replace("\\\n", " "), re.DOTALL)
        pairs = [block.split("# ->\n") for block in blocks if "# ->" in block]
        assert len(pairs) == 5
        for old, new in pairs:
            of_old, of_new = parse(old), parse(new)
            for context in (of_old, of_new):
                for name in ("assignments", "train_flags"):  # in any order
                    context.params[name] = sorted(context.params.get(name, ()))
            assert (of_old.info_name, of_old.params) == (of_new.info_name, of_new.params)


def test_both_pages_hold_the_same_commands_and_every_flag(pages: list[str]) -> None:
    english, chinese = pages
    assert sorted(find_commands(english)) == sorted(find_commands(chinese))
    for page in pages:
        rows = re.findall(r"^\| `(--[\w-]+)` \| (RetinaNet|SSD) \|", page, re.MULTILINE)
        assert rows == [(name, "SSD" if old.is_ssd else "RetinaNet") for name, old in FLAGS.items()]
        assert list_columns(page) == list_columns(english)


def list_columns(page: str) -> list[int]:
    return [line.count("|") for line in page.splitlines() if line.startswith(("|", "#"))]


def test_the_pages_are_no_recipes() -> None:
    assert not set(list_shipped_recipes()) & {"FROM_MODELZOO", "FROM_MODELZOO.zh"}
