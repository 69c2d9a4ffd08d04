"""The model of step times: by hand on plain numbers, and as the command behind the report."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from suite.bench.scaling import count_gradients
from suite.bench.step_time import (
    BUCKET_LIMITS,
    MIB,
    Link,
    Network,
    Work,
    all_reduce_seconds,
    explain_step,
    predict_step,
    split_into_buckets,
)
from suite.recipe import load_recipe
from suite.records import build_record, write_record

Run = Callable[..., Any]

GB = 1e9
NETWORK = Network(devices_per_machine=8, inside=Link(10 * GB, 1e-5), between=Link(5 * GB, 2e-5))
WORK = Work(forward_s=0.1, backward_s=0.2, buckets=[10**8, 10**8])


def test_one_device_exchanges_nothing() -> None:
    step = predict_step(replace(WORK, lost_s=1.0), NETWORK, devices=1)
    assert (step.all_reduce_s, step.exposed_s) == (0, 0)
    assert step.step_s == pytest.approx(0.3)


def test_a_ring_inside_a_machine() -> None:
    # 2 x 7/8 of the bytes pass each link, in 14 messages
    assert all_reduce_seconds(8e9, NETWORK, devices=8) == pytest.approx(1.4 + 14e-5)
    assert all_reduce_seconds(8e9, NETWORK, devices=2) == pytest.approx(0.8 + 2e-5)


def test_between_machines_each_device_carries_its_share() -> None:
    # inside as before; between 16 machines 2 x 15/16 of an eighth, in 2 x 4 messages
    expected = 1.4 + 14e-5 + (2 * 15 / 16 * 1e9) / (5 * GB) + 8 * 2e-5
    assert all_reduce_seconds(8e9, NETWORK, devices=128) == pytest.approx(expected)
    # and of one device each: no inside
    alone = replace(NETWORK, devices_per_machine=1)
    expected = (2 * 15 / 16 * 8e9) / (5 * GB) + 8 * 2e-5
    assert all_reduce_seconds(8e9, alone, devices=16) == pytest.approx(expected)


def test_one_ring_around_all_devices_goes_at_the_slowest_link() -> None:
    ring = replace(NETWORK, algorithm="ring")
    expected = 2 * 127 / 128 * 8e9 / (5 * GB) + 2 * 127 * 2e-5
    assert all_reduce_seconds(8e9, ring, devices=128) == pytest.approx(expected)
    assert all_reduce_seconds(8e9, ring, devices=8) == all_reduce_seconds(8e9, NETWORK, devices=8)


def test_what_fits_beside_the_backward_pass_is_hidden() -> None:
    each = all_reduce_seconds(10**8, NETWORK, devices=8)
    assert each < 0.1
    step = predict_step(WORK, NETWORK, devices=8)
    # The first bucket goes halfway through the backward pass; the last one cannot hide.
    assert step.all_reduce_s == pytest.approx(2 * each)
    assert step.exposed_s == pytest.approx(each)
    assert step.step_s == pytest.approx(0.3 + each)
    after = predict_step(WORK, NETWORK, devices=8, overlap=False)
    assert after.exposed_s == pytest.approx(2 * each)


def test_buckets_wait_for_each_other() -> None:
    slow = replace(NETWORK, inside=Link(0.5 * GB, 0.0))
    each = all_reduce_seconds(10**8, slow, devices=8)
    assert each > 0.1
    step = predict_step(WORK, slow, devices=8)
    assert step.exposed_s == pytest.approx(2 * each - 0.1)


def test_the_devices_of_a_machine_share_its_loader() -> None:
    work = replace(WORK, loading_s=0.25)
    steps = [predict_step(work, NETWORK, devices=n).step_s for n in (1, 2, 8, 64)]
    assert steps == [pytest.approx(0.3), 0.5, 2.0, 2.0]


def test_more_devices_never_make_a_step_shorter() -> None:
    steps = [predict_step(WORK, NETWORK, devices=n).step_s for n in (1, 2, 4, 8, 16, 64, 1024)]
    assert steps == sorted(steps)
    assert len(set(steps)) == len(steps)


@pytest.mark.parametrize("name", ["ssd_r34_8p", "retinanet_r50_fpn_8p"])
@pytest.mark.parametrize("limits", [BUCKET_LIMITS, (5 * MIB,)])
def test_buckets_are_those_of_torch(name: str, limits: tuple[int, ...]) -> None:
    sizes = count_gradients(load_recipe(name))
    gradients = [torch.empty(size // 4, device="meta") for size in sizes]
    assigned, _ = dist._compute_bucket_assignment_by_size(gradients, list(limits))
    expected = [sum(sizes[index] for index in bucket) for bucket in assigned]
    assert split_into_buckets(sizes, limits) == expected


def test_gradients_are_those_of_the_trained_parameters() -> None:
    assert sum(count_gradients(load_recipe("ssd_r34_8p"))) == 4 * 19_972_534
    assert sum(count_gradients(load_recipe("retinanet_r50_fpn_8p"))) == 4 * 37_743_348


def test_an_explanation_gives_the_measured_step() -> None:
    why = explain_step(WORK, NETWORK, devices=8, measured_step_s=0.6)
    assert why.overlapped is not None
    assert why.after_backward is not None
    assert why.lost_s is not None
    assert why.overlapped < why.after_backward < 1
    for share, overlap in ((why.overlapped, True), (why.after_backward, False)):
        slow = replace(NETWORK, inside=Link(10 * GB * share, 1e-5))
        step = predict_step(WORK, slow, devices=8, overlap=overlap)
        assert step.step_s == pytest.approx(0.6)
    step = predict_step(replace(WORK, lost_s=why.lost_s), NETWORK, devices=8)
    assert step.step_s == pytest.approx(0.6)


def test_faster_than_one_device_is_not_explained() -> None:
    why = explain_step(WORK, NETWORK, devices=8, measured_step_s=0.2)
    assert (why.overlapped, why.after_backward, why.lost_s) == (None, None, None)


def scale(run: Run, *arguments: str) -> dict[str, Any]:
    done = run("bench", "scaling", *arguments, "--json")
    assert done.code == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_answer_follows_the_recipe(run_suite: Run) -> None:
    answer = scale(run_suite, "ssd_r34_8p", "--images-per-second", "559.3")
    assert answer["schema"] == "suite.scaling/1"
    assert answer["status"] == "a model, unverified on Ascend hardware"
    assert (answer["rank_batch"], answer["trained_parameters"]) == (32, 19_972_534)
    rows = {row["devices"]: row for row in answer["rows"]}
    assert list(rows) == [1, 8, 64, 512, 1024]
    assert rows[8]["global_batch"] == 256
    assert rows[8]["learning_rate"] == pytest.approx(0.024)
    assert rows[1024]["steps_per_epoch"] == 120_000 // 32_768
    assert rows[1]["images_per_second"] == pytest.approx(559.3)
    for row in rows.values():
        rate = row["global_batch"] / row["step_ms"] * 1000
        assert row["images_per_second"] == pytest.approx(rate)
        assert row["efficiency"] == pytest.approx(rate / row["devices"] / 559.3)
    assert [note.partition(" devices: ")[0] for note in answer["notes"]] == [
        "512", "1,024", "512, 1024",
    ]  # fmt: skip
    assert "mlperf_train" in answer["notes"][-1]


def test_a_warm_up_longer_than_the_run_is_noted(run_suite: Run) -> None:
    asked = ["retinanet_r50_fpn_8p", "--images-per-second", "17", "--devices", "512"]
    answer = scale(run_suite, *asked, "--dataset-size", "117266")
    assert answer["notes"][0].startswith(
        "512 devices: 28 steps an epoch, 343 in all, which the warm-up of 500 outlasts; do not"
    )
    without = scale(run_suite, *asked)
    assert without["rows"][0]["steps_per_epoch"] is None
    assert len(without["notes"]) == 1
    beyond = scale(run_suite, *asked, "--devices", "65536", "--dataset-size", "117266")
    assert any("65,536 devices: 0 steps an epoch" in note for note in beyond["notes"])


def test_the_published_efficiency_is_not_that_of_full_speed_links(run_suite: Run) -> None:
    asked = ["retinanet_r50_fpn_8p", "--images-per-second", "17", "--measured", "8=112"]
    check = scale(run_suite, *asked)["check"]
    assert check["efficiency"] == pytest.approx(0.8235, abs=1e-4)
    assert check["model_step_ms"] < 0.85 * check["step_ms"]
    assert check["inside_gb_per_second_overlapped"] < 1
    assert check["inside_gb_per_second_after_backward"] < 3
    lost = str(check["lost_ms"])
    rows = scale(run_suite, *asked[:3], "--lost-ms", lost)["rows"]
    assert rows[1]["images_per_second"] == pytest.approx(112)
    rows = scale(run_suite, *asked[:3], "--loader", "112")["rows"]
    assert rows[1]["images_per_second"] == pytest.approx(112)
    assert rows[0]["images_per_second"] == pytest.approx(17)


def test_the_help_names_what_the_flags_take(run_suite: Run) -> None:
    text = run_suite("bench", "scaling", "--help").stdout
    words = " ".join(text.split())
    assert "--latency-us INSIDE BETWEEN Of one message" in words
    assert "--json Print the answer" in words


def record_of(tmp_path: Path, **changed: Any) -> Path:
    record = build_record(
        changed.get("kind", "bench-train"),
        metrics={"images_per_second": 9.0, "images_per_second_model_only": 10.0},
        subject={"detector": changed.get("detector", "ssd_r34")},
        conditions={"devices": changed.get("devices", 1), "global_batch": 16},
    )
    write_record(record, tmp_path / "record.json")
    return tmp_path / "record.json"


def test_one_device_may_come_from_a_record(run_suite: Run, tmp_path: Path) -> None:
    answer = scale(run_suite, "ssd_r34_8p", "--record", str(record_of(tmp_path)))
    assert (answer["rank_batch"], answer["step_ms"]) == (16, pytest.approx(1600))


@pytest.mark.parametrize(
    ("changed", "flags", "told"),
    [
        ({"kind": "eval"}, [], "is of kind eval; wanted is one of `bench train`"),
        ({"devices": 8}, [], "is of 8 devices"),
        ({"detector": "retinanet_r50_fpn"}, [], "is of retinanet_r50_fpn, the recipe of ssd_r34"),
        ({}, ["--batch", "8"], "--batch 8: the record is of 16"),
        ({}, ["--images-per-second", "3"], "either --record or --images-per-second"),
        ({}, ["--measured", "1=17"], "expected devices=images/s, such as 8=112"),
    ],
)
def test_what_does_not_fit_is_refused(
    run_suite: Run, tmp_path: Path, changed: dict[str, Any], flags: list[str], told: str
) -> None:
    record = record_of(tmp_path, **changed)
    done = run_suite("bench", "scaling", "ssd_r34_8p", "--record", str(record), *flags)
    assert done.code == 2
    assert told in done.stderr.replace("\n", " ")


def test_the_report_holds_what_the_commands_print(run_suite: Run, repository: Path) -> None:
    path = repository / "reports" / "scaling.md"
    text = path.read_text(encoding="utf-8")
    commands = 0

    def print_again(block: re.Match[str]) -> str:
        nonlocal commands
        commands += 1
        done = run_suite(*shlex.split(block[1])[1:])
        assert done.code == 0, done.stderr
        lines = [line.rstrip() for line in done.stdout.splitlines()]
        return "\n".join([f"```\n$ {block[1]}", *lines, "```\n"])

    printed = re.sub(r"```\n\$ (suite bench scaling .*)\n(?:.*\n)*?```\n", print_again, text)
    assert commands == 5
    if os.environ.get("SUITE_REWRITE_GOLDEN") == "1":
        path.write_text(printed, encoding="utf-8")
    assert printed == path.read_text(encoding="utf-8")


def test_figures_in_the_reports_text_are_the_models(run_suite: Run, repository: Path) -> None:
    text = (repository / "reports" / "scaling.md").read_text(encoding="utf-8")
    asked = ["retinanet_r50_fpn_8p", "--images-per-second", "17", "--backward-share", "0.649"]
    answer = scale(run_suite, *asked, "--measured", "8=112")
    check = answer["check"]
    assert f"at {check['inside_gb_per_second_overlapped']:.2f} GB/s" in text
    assert f"at {check['inside_gb_per_second_after_backward']:.2f} GB/s" in text
    assert f"The model says {100 * answer['rows'][1]['efficiency']:.1f} %" in text
