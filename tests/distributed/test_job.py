"""The parts of a job on two ranks, held against the same on one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from suite.data.synthetic import write_synthetic
from suite.recipe import load_recipe
from suite.training.job import opened_job
from tests.distributed.programs import job as program
from tests.once import build_once
from tests.ports import find_port

Seen = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with three training images that cannot be read, and one image to judge on."""
    folder = tmp_path_factory.mktemp("damaged") / "data"
    write_synthetic(folder, num_train=16, num_val=1, seed=3)
    for image in sorted((folder / "train").iterdir())[2:12:4]:
        image.write_bytes(image.read_bytes()[:200])
    return folder


@pytest.fixture(scope="module")
def recipes(overrides: Any, damaged: Path) -> dict[str, dict[str, str]]:
    skip = {"data__on_bad_sample": "skip", "data__bad_sample_limit": "0.5"}
    return {
        "ssd": overrides(devices="2", data__cache="ram"),
        "retinanet": overrides(devices="2", retinanet=True, data__cache="disk"),
        "bad": overrides(devices="2", data=damaged, **skip),
    }


@pytest.fixture(scope="module")
def folder(
    recipes: dict[str, dict[str, str]],
    start_by_hand: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What two ranks saw: `<recipe>-<rank>` as .json and .pth."""

    def run(folder: Path) -> None:
        path = folder / "request.json"
        ports = [find_port() for _ in recipes]
        request = {"recipes": recipes, "ports": ports, "folder": str(folder)}
        path.write_text(json.dumps(request))
        ranks = start_by_hand(
            path, by=(sys.executable, program.__file__), XDG_CACHE_HOME=str(folder / "cache")
        )
        done = [rank.finish() for rank in ranks]
        assert [one.code for one in done] == [0, 0], done

    return build_once(tmp_path_factory, "job", run)


@pytest.fixture
def seen(folder: Path) -> Seen:
    """What both ranks saw of a recipe."""
    return lambda name: [json.loads((folder / f"{name}-{r}.json").read_text()) for r in range(2)]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Sums in the same order as the ranks make them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["ssd", "retinanet"])
def test_gradients_are_the_mean_of_what_each_rank_finds_alone(
    folder: Path, recipes: dict[str, dict[str, str]], name: str
) -> None:
    """Each rank has its own statistics in batch norm and its own count of matched anchors."""
    found = [torch.load(folder / f"{name}-{rank}.pth") for rank in range(2)]
    recipe = load_recipe("demo", {**recipes[name], "devices": "1"})
    with opened_job(recipe) as job:
        alone = [program.find_gradients(job, rank=rank) for rank in range(2)]
    assert found[0].keys() == alone[0].keys()
    assert any(not torch.equal(alone[0][key], alone[1][key]) for key in alone[0])
    for key, gradient in found[0].items():
        assert torch.equal(gradient, found[1][key]), key
        torch.testing.assert_close(
            gradient, (alone[0][key] + alone[1][key]) / 2, rtol=0, atol=0, msg=key
        )


@pytest.mark.parametrize("name", ["ssd", "retinanet"])
def test_two_ranks_find_on_images_what_one_finds(
    seen: Seen, recipes: dict[str, dict[str, str]], name: str
) -> None:
    ranks = [one["fresh"] for one in seen(name)]
    with opened_job(load_recipe("demo", {**recipes[name], "devices": "1"})) as job:
        alone = program.judge(job, program.fresh_detect(job))
    assert ranks[0] == ranks[1]
    assert len(alone["results"]) > 20
    assert_same_results(ranks[0]["results"], alone["results"])


def assert_same_results(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    """Image by image; their order is that of the ranks."""
    assert len(first) == len(second)
    first, second = (sorted(found, key=lambda one: one["image_id"]) for found in (first, second))
    for one, other in zip(first, second, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)


@pytest.mark.parametrize("name", ["ssd", "retinanet", "bad"])
def test_two_ranks_are_judged_as_one(
    seen: Seen, recipes: dict[str, dict[str, str]], name: str
) -> None:
    """Also where there are more ranks than images."""
    ranks = [one["known"] for one in seen(name)]
    with opened_job(load_recipe("demo", {**recipes[name], "devices": "1"})) as job:
        alone = program.judge(job, program.knowing_detect(job))
    assert 0.1 < alone["numbers"]["ap"] < 0.9
    assert ranks[0] == ranks[1]
    assert ranks[0]["numbers"] == pytest.approx(alone["numbers"], abs=1e-9)
    assert_same_results(ranks[0]["results"], alone["results"])


@pytest.mark.parametrize(("name", "stays"), [("ssd", False), ("retinanet", True)])
def test_the_ranks_of_a_machine_share_a_cache(
    seen: Seen, recipes: dict[str, dict[str, str]], name: str, stays: bool
) -> None:
    """In memory it goes with the run, on the disk it stays for the next one."""
    caches = [one["cache"] for one in seen(name)]
    assert caches[0]["paths"] == caches[1]["paths"]
    assert len(caches[0]["paths"]) == 1
    assert all(cache["after"] == (cache["paths"] if stays else []) for cache in caches)
    # What comes out of it is what each rank would have read itself.
    uncached = {**recipes[name], "devices": "1", "data.cache": "none"}
    with opened_job(load_recipe("demo", uncached)) as job:
        for rank, cache in enumerate(caches):
            alone = replace(job, ranks=program.pretend(rank))
            assert cache["pixels"] == program.sum_pixels(alone)


def test_bad_samples_of_different_ranks_are_counted_together(
    seen: Seen, recipes: dict[str, dict[str, str]]
) -> None:
    first, second = (one["1"] for one in seen("bad"))
    assert first["own"] != second["own"]  # neither has found all of them
    found = [entry["image_id"] for entry in first["all"]]
    assert len(found) == 3
    assert found == sorted({*first["own"], *second["own"]})
    assert first["all"] == second["all"]
    assert sorted(first["said"]) == sorted(second["said"])
    assert first["refused"] is second["refused"] is None
    with opened_job(load_recipe("demo", {**recipes["bad"], "devices": "1"})) as job:
        assert program.count_bad_samples(job, limit=1)["all"] == first["all"]


def test_too_many_bad_samples_end_the_run_on_all_ranks(seen: Seen) -> None:
    first, second = (one["0.15"]["refused"] for one in seen("bad"))
    assert first == second
    assert first.startswith("3 of 16 training images cannot be read, more than data.bad_sample_lim")
