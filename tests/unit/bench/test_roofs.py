"""What follows from three rates: the sentence a person acts on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from suite.bench.roofs import Roofs, explain_roofs, find_bound

# One accelerator, two loader processes of 100 images a second each.
GPU = Roofs(
    loader=200,
    model=420,
    whole=200,
    ranks=1,
    ranks_here=1,
    workers=2,
    cores=16,
    on_cpu=False,
    cache="none",
)


def test_a_slow_loader_is_given_the_processes_that_keep_up() -> None:
    said = "input-bound: 2.1x left; raise workers to 5 (--set data.workers=5)"
    assert (find_bound(GPU), explain_roofs(GPU)) == ("input", said)
    # Just enough is enough; eight ranks that share the cores need as many each.
    assert replace(GPU, model=400).workers_needed == 4
    eight = replace(GPU, loader=1600, model=3360, whole=1600, ranks=8, ranks_here=8, cores=40)
    assert explain_roofs(eight) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"cores": 4},
            "5 workers would keep up, too many for 4 cores; "
            "keep images decoded (--cache ram) or use fewer transforms",
        ),
        (
            # The CPU's own rank needs a core of the five.
            {"cores": 5, "on_cpu": True, "cache": "ram"},
            "5 workers would keep up, too many for 5 cores; use fewer transforms",
        ),
        (
            {"cores": 8, "ranks": 2, "ranks_here": 2, "loader": 400, "model": 840, "whole": 400},
            "5 workers for each of 2 ranks would keep up, too many for 8 cores; "
            "keep images decoded (--cache ram) or use fewer transforms",
        ),
    ],
)
def test_where_cores_do_not_suffice_the_work_has_to_shrink(
    changes: dict[str, object], said: str
) -> None:
    roofs = replace(GPU, **changes)  # type: ignore[arg-type]  # of mixed types
    assert explain_roofs(roofs) == f"input-bound: 2.1x left; {said}"


def test_loading_in_turn_with_training_needs_one_process() -> None:
    roofs = replace(GPU, workers=0, loader=300, model=100, whole=75)
    assert explain_roofs(roofs) == (
        "input-bound: 1.3x left; raise workers to 1 (--set data.workers=1)"
    )


def test_a_slow_model_says_how_much_faster_it_might_be() -> None:
    roofs = replace(GPU, loader=340, model=100, whole=98)
    assert explain_roofs(roofs) == "compute-bound: the loader could feed 3.4x"
    assert find_bound(roofs) == "compute"


def test_loader_and_model_that_are_fast_alone_share_cores() -> None:
    roofs = replace(GPU, loader=300, model=200, whole=125, cores=2, on_cpu=True)
    assert find_bound(roofs) == "cores"
    assert explain_roofs(roofs) == (
        "short of cores: 1.6x left; the loader alone could feed 1.5x, but shares 2 cores with the "
        "training; keep images decoded (--cache ram) or use fewer transforms"
    )


def test_a_loader_that_costs_nothing_is_not_blamed() -> None:
    """What a loader of 100 times the model's rate takes does not halve the speed."""
    roofs = replace(GPU, loader=1000, model=10, whole=5, on_cpu=True)
    assert find_bound(roofs) == "compute"
    assert "2.0x as fast is not the loader's doing: repeat it on a quiet" in explain_roofs(roofs)


def test_what_intervals_cannot_tell_apart_is_not_explained() -> None:
    roofs = replace(GPU, loader=300, model=110, whole=100, level=True)
    assert find_bound(roofs) == "unclear"
    assert "1.1x as fast as end to end, but their intervals overlap" in explain_roofs(roofs)
    assert find_bound(replace(roofs, level=False)) == "cores"
    slow = replace(GPU, loader=5, model=10, whole=5, level=True)
    assert find_bound(slow) == "unclear"
    assert find_bound(replace(slow, level=False)) == "input"
    assert find_bound(replace(GPU, loader=300, model=102, whole=100, level=True)) == "compute"
