"""The verb that starts training on several machines: launch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suite.cli.flags import FILE, load_request
from suite.cli.model_verbs import train
from suite.cli.ranks import Placement, placement_of, start_ranks
from suite.errors import UsageError

if TYPE_CHECKING:
    from suite.launch.plan import LaunchPlan

_HOST_PORT = "HOST:PORT"


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--nnodes", type=click.IntRange(min=1), metavar="N", help="How many machines.")
@click.option("--node-rank", type=click.IntRange(min=0), metavar="R",
              help="Which of them this is, from 0.")  # fmt: skip
@click.option("--master", metavar=_HOST_PORT,
              help="Where the others reach the first; port 29500 if there is none.")  # fmt: skip
@click.option("--hosts", metavar="HOST,HOST,...",
              help="All of them, the first one first; in place of --nnodes.")  # fmt: skip
@click.option("--rank-table", type=FILE, metavar="FILE",
              help="HCCL's table of machines and devices; in place of --nnodes.")  # fmt: skip
@click.option("--local-addr", metavar="ADDRESS", help="This machine's, for HCCL (HCCL_IF_IP).")
@click.option("--run-id", metavar="ID", help="The same on all machines, another for each run.")
@click.option("--dry-run", is_flag=True, help="Print the plan and start nothing.")
@click.option("--format", "form", type=click.Choice(["commands", "slurm", "kubernetes"]),
              help="What to print in place of the plan; starts nothing either.")  # fmt: skip
@click.option("--image", help="Container image of --format kubernetes.")
@click.argument("recipe")
@click.argument("train_flags", nargs=-1, type=click.UNPROCESSED, metavar="[TRAIN FLAGS]...")
def launch(
    recipe: str,
    train_flags: tuple[str, ...],
    run_id: str | None,
    dry_run: bool,
    form: str | None,
    image: str | None,
    **machines: Any,
) -> None:
    """Train RECIPE on several machines: run this on each of them.

    What follows RECIPE are flags of `suite train`; --devices counts those of all machines.
    """
    from suite.launch.plan import Machines, Training, plan_launch

    _refuse_unused(form, image=image, run_id=run_id, **machines)
    arguments = (recipe, *train_flags)
    name, placement = _parse_training(arguments)
    training = Training(
        name=name,
        device=placement.device,
        num_ranks=placement.num_devices,
        arguments=arguments,
        log_folder=placement.output / "launches",
        patience=placement.patience,
    )
    plan = plan_launch(Machines(**machines), training, run_id=run_id)
    for warning in plan.warnings:
        click.echo(warning, err=True)
    if dry_run or form is not None:
        click.echo(_format(plan, form, image))
    else:
        _start(plan, placement)


def _refuse_unused(form: str | None, *, image: str | None, **given: Any) -> None:
    """Refuse flags that what is asked for has no place for."""
    if image is not None and form != "kubernetes":
        raise UsageError(f"--image {image}: only --format kubernetes names an image; leave it out")
    if form not in ("slurm", "kubernetes"):
        return
    for name in ("run_id", "master", "local_addr", "node_rank"):
        if given[name] is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{flag} {given[name]}: with --format {form} each machine learns that from the "
                "scheduler when the job starts; leave it out"
            )


def _parse_training(arguments: tuple[str, ...]) -> tuple[str, Placement]:
    """Read the flags of `suite train` here and now, so that what is wrong is said once."""
    parent = click.get_current_context().parent
    with train.make_context("train", list(arguments), parent=parent) as context:
        params = dict(context.params)
    output: Path = params.pop("output")
    restarts: int = params.pop("restarts")
    loaded, _, _ = load_request(params.pop("recipe"), params)
    return loaded.name, placement_of(loaded, output=output, restarts=restarts)


def _format(plan: LaunchPlan, form: str | None, image: str | None) -> str:
    from suite.launch import scripts

    match form:
        case "commands":
            return scripts.format_commands(plan)
        case "slurm":
            return scripts.slurm_script(plan)
        case "kubernetes":
            if image is None:
                raise UsageError("--format kubernetes needs --image, with this suite in it")
            return scripts.kubernetes_manifest(plan, image=image)
        case _:
            return scripts.format_plan(plan)


def _start(plan: LaunchPlan, placement: Placement) -> None:
    from suite.launch.addresses import local_addresses
    from suite.launch.machine import (
        build_node,
        find_own_node,
        prepare_rank_table,
        rank_environment,
    )

    _refuse_rank(placement.num_devices)
    node_rank = find_own_node(plan, local_addresses())
    plan = replace(plan, node_rank=node_rank)
    node = build_node(plan, node_rank)
    environment = rank_environment(plan, node_rank, environ=os.environ)
    if "RANK_TABLE_FILE" in environment:
        prepare_rank_table(plan, node_rank)
    _name_others(plan, node_rank)
    start_ranks(node, placement, ["train", *plan.training.arguments], environment=environment)


def _refuse_rank(num_ranks: int) -> None:
    """Go on if no other launcher has started this process as one of several ranks."""
    from suite.launch.starter import recognise
    from suite.launch.worker import Worker

    try:
        place = recognise(os.environ, num_ranks=num_ranks)
    except UsageError:
        return  # what cannot be told from outside is what the flags are for
    if isinstance(place, Worker) and num_ranks > 1:
        raise UsageError(
            f"{place.starter} has started this process as rank {place.rank} of {num_ranks} "
            "already; let it start suite train in place of suite launch"
        )


def _name_others(plan: LaunchPlan, node_rank: int) -> None:
    """Say what has to be started elsewhere, as nothing is seen of it here."""
    import shlex

    from suite.launch.plan import node_command

    for other, host in enumerate(plan.hosts):
        if other != node_rank:
            place = f"machine {other}" if host is None else host
            click.echo(f"on {place}: {shlex.join(node_command(plan, other))}", err=True)


VERBS = (launch,)
