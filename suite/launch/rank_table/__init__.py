"""HCCL rank tables: which device of which machine is which rank of a job on Ascend NPUs.

The table tells a launcher how many machines there are, which of them this one is and where rank 0
listens; HCCL reads the same file by itself through RANK_TABLE_FILE, and finds what is wrong with it
only at the first collective. Unverified on Ascend hardware: only the documents behind
`reading` say that HCCL accepts what is accepted and written here.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from suite.errors import UsageError
from suite.launch.addresses import is_placeholder, normalise
from suite.launch.rank_table.examining import examine_rank_table, list_faults
from suite.launch.rank_table.model import RankTable, Version
from suite.launch.rank_table.strict_json import read_bytes
from suite.launch.rank_table.writing import write_rank_table

__all__ = [
    "RankTable",
    "Version",
    "find_own_server",
    "load_rank_table",
    "write_rank_table",
]


def load_rank_table(path: Path, *, num_ranks: int | None = None) -> RankTable:
    """Read a rank table of template 2, version 1.0 or version 1.2.

    Args:
        path: its file.
        num_ranks: how many ranks the job has, None where any number will do.

    Raises:
        InputError: the file is damaged, no rank table, or of a version that cannot be used.
        UsageError: holds every fault of the table, one line each.
    """
    examined = examine_rank_table(read_bytes(path), source=str(path), num_ranks=num_ranks)
    if examined.table is None:
        raise UsageError(list_faults(f"{path}: this rank table cannot be used", examined.faults))
    return examined.table


def find_own_server(table: RankTable, addresses: Collection[str]) -> int:
    """Return which server of the table this machine is; its index is the node rank.

    Args:
        addresses: those of this machine, and its names, as `local_addresses` gives them.

    Raises:
        UsageError: it is none of them, or more than one.
    """
    if table.num_servers == 1 and is_placeholder(table.master.host_addr):
        return 0
    own = {normalise(address) for address in addresses}
    # Containers of one machine share its host_ip, but not the address that others reach them at.
    found = [index for index, one in enumerate(table.servers) if normalise(one.host_addr) in own]
    if not found:
        names = [{normalise(name) for name in one.names} for one in table.servers]
        found = [index for index, some in enumerate(names) if own & some]
    if len(found) == 1:
        return found[0]
    raise UsageError(_explain_no_server(table, addresses, found))


def _explain_no_server(table: RankTable, addresses: Collection[str], found: list[int]) -> str:
    told = f"{len(found)} servers at once" if found else "none of the servers"
    listed = ", ".join(server.host_addr for server in table.servers[:8])
    more = ", ..." if table.num_servers > 8 else ""
    return (
        f"this machine ({', '.join(sorted(addresses))}) is {told} of the rank table "
        f"({listed}{more}); pass --node-rank, or correct its server_id and host_ip"
    )
