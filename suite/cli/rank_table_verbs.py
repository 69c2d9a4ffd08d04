"""The verbs around HCCL rank tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from suite.cli.flags import FILE, print_json
from suite.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from suite.launch.rank_table import RankTable, Version

_SCHEMA: Final = "suite.rank-table-check/1"

_OUTPUT = click.option(
    "-o", "--output", type=FILE, required=True, metavar="OUT", help="File to write."
)
_FORCE = click.option("--force", is_flag=True, help="Replace an existing file.")


@click.group("rank-table")
def rank_table() -> None:
    """Check, convert and make the rank tables of Ascend NPUs (hccl.json)."""


@rank_table.command("check")
@click.argument("file", type=FILE)
@click.option(
    "--devices", type=click.IntRange(min=1), help="How many devices the job has on all servers."
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON document.")
def check(file: Path, devices: int | None, as_json: bool) -> None:
    """Say what FILE has in it and all that is wrong with it; exit 3 when something is."""
    from suite.launch.rank_table.examining import examine_rank_table
    from suite.launch.rank_table.strict_json import read_bytes

    examined = examine_rank_table(read_bytes(file), source=str(file), num_ranks=devices)
    _warn(examined.warnings)
    if as_json:
        print_json(
            _SCHEMA,
            file=str(file),
            faults=[asdict(fault) for fault in examined.faults],
            warnings=list(examined.warnings),
            table=None if examined.table is None else _encode_table(examined.table),
        )
    elif examined.table is not None:
        click.echo(_format_table(examined.table))
    else:
        for fault in examined.faults:
            click.echo(str(fault))
    if examined.faults:
        raise CheckFailed(f"{file}: {_count(len(examined.faults), 'fault')}")


@rank_table.command("convert")
@click.argument("file", type=FILE)
@click.option(
    "--to",
    "version",
    type=click.Choice(["1.0", "1.2", "template2"]),
    required=True,
    help="Format to write: 1.0 for Atlas training products and A2, 1.2 for A3.",
)
@_OUTPUT
@_FORCE
def convert(file: Path, version: Version, output: Path, force: bool) -> None:
    """Write FILE, which has to be without faults, in another format."""
    from suite.launch.rank_table import load_rank_table
    from suite.launch.rank_table.writing import list_losses

    table = load_rank_table(file)
    losses = list_losses(table, version)
    _write(table, version, output, force=force)
    _warn(table.warnings)
    if losses:
        _warn([f"no place in {version} for {', '.join(losses)}; left out"])
    click.echo(str(output))


@rank_table.command("make")
@click.option(
    "--hosts", required=True, metavar="H1,H2,...", help="Addresses or names, in order of ranks."
)
@click.option(
    "--devices-per-host",
    type=click.IntRange(1, 64),
    help="Devices of each host, those with the lowest numbers; without it all with an address.",
)
@click.option(
    "--device-ips",
    metavar="IP,IP;IP,IP",
    help="Addresses of the devices from number 0, hosts in the order of --hosts.",
)
@click.option(
    "--hccn",
    "hccn_files",
    multiple=True,
    metavar="HOST=FILE",
    help="A copy of the /etc/hccn.conf of a host, which has the addresses of its devices.",
)
@_OUTPUT
@_FORCE
def make(
    hosts: str,
    devices_per_host: int | None,
    device_ips: str | None,
    hccn_files: Sequence[str],
    **target: Any,
) -> None:
    """Write a rank table of version 1.0 from a list of hosts, ranks in the order of the list."""
    from suite.launch.rank_table.making import make_rank_table, read_device_addresses

    names = hosts.split(",")
    devices = read_device_addresses(names, device_ips=device_ips, hccn_files=hccn_files)
    table = make_rank_table(names, devices_per_host=devices_per_host, devices=devices)
    written = _write(table, "1.0", **target)
    _warn(written.warnings)
    click.echo(str(target["output"]))


def _write(table: RankTable, version: Version, output: Path, *, force: bool) -> RankTable:
    from suite.launch.rank_table import write_rank_table

    if output.exists() and not force:
        raise UsageError(f"{output}: exists; choose another name or pass --force")
    return write_rank_table(table, version, output)


def _warn(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        click.echo(f"warning: {sentence}", err=True)


def _format_table(table: RankTable) -> str:
    from tabulate import tabulate

    from suite.launch.rank_table.model import format_numbers

    rows = [
        (
            index,
            server.server_id,
            server.host_addr,
            format_numbers(server.ranks),
            ", ".join(map(str, server.device_ids)),
        )
        for index, server in enumerate(table.servers)
    ]
    headers = ["node", "server_id", "address", "ranks", "devices"]
    title = (
        f"rank table {table.version}: {_count(table.num_ranks, 'rank')} on "
        f"{_count(table.num_servers, 'server')}, "
        f"{table.devices_per_server} each; rank 0 at {table.master_addr}"
    )
    body = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    return f"{title}\n\n{body}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _encode_table(table: RankTable) -> dict[str, Any]:
    return {
        "version": table.version,
        "num_ranks": table.num_ranks,
        "num_servers": table.num_servers,
        "devices_per_server": table.devices_per_server,
        "master_addr": table.master_addr,
        "servers": [asdict(server) | {"host_addr": server.host_addr} for server in table.servers],
        "super_pods": [asdict(pod) for pod in table.super_pods],
    }


VERBS = (rank_table,)
