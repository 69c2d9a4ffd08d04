"""Every fault of a rank table, told at once with place, value and what would be right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.errors import UsageError
from suite.launch.rank_table import load_rank_table
from suite.launch.rank_table.examining import examine_rank_table

Json = dict[str, Any]


def listed(*sizes: int, version: str = "1.0") -> Json:
    """A table of version 1.0, or of 1.2 with one super pod, with servers of these sizes."""
    ranks = iter(range(sum(sizes)))
    servers = []
    for number, size in enumerate(sizes):
        devices = []
        for index, rank in zip(range(size), ranks, strict=False):
            address = f"192.{168 + number // 250}.{number % 250}.{index + 1}"
            device = {"device_id": str(index), "device_ip": address, "rank_id": str(rank)}
            devices.append(device | ({"super_device_id": str(rank)} if version == "1.2" else {}))
        servers.append({"server_id": f"10.0.{number // 250}.{number % 250 + 1}", "device": devices})
    table: Json = {"status": "completed", "version": version}
    table |= {"server_count": str(len(sizes)), "server_list": servers}
    if version == "1.2":
        members = [{"server_id": server["server_id"]} for server in servers]
        table["super_pod_list"] = [{"super_pod_id": "0", "server_list": members}]
    return table


def faults_of(table: Json, num_ranks: int | None = None) -> list[str]:
    content = json.dumps(table).encode()
    examined = examine_rank_table(content, source="t", num_ranks=num_ranks)
    assert (examined.table is None) == bool(examined.faults)
    return [str(fault) for fault in examined.faults]


Change = Callable[[Json], object]


def device(table: Json, server: int, index: int) -> Json:
    found: Json = table["server_list"][server]["device"][index]
    return found


ONE_FAULT: dict[str, tuple[Change, str]] = {
    "initializing": (
        lambda t: t.update(status="initializing"),
        "$.status: 'initializing': the operator is still writing; wait for 'completed'",
    ),
    "no status": (lambda t: t.pop("status"), "$.status: expected 'completed', got nothing"),
    "no version": (
        lambda t: t.pop("version"),
        '$.version: expected text, "1.0" or "1.2" in quotes, got nothing',
    ),
    "bare version": (
        lambda t: t.update(version=1.0),
        '$.version: expected text, "1.0" or "1.2" in quotes, got the number 1.0',
    ),
    "server_count": (
        lambda t: t.update(server_count="3"),
        "$.server_count: '3' is wrong, number of servers: 2",
    ),
    "no server_count": (
        lambda t: t.pop("server_count"),
        '$.server_count: missing; expected a whole number in quotes, such as "0"',
    ),
    "word": (
        lambda t: device(t, 1, 1).update(rank_id="three"),
        '$.server_list[1].device[1].rank_id: expected a whole number in quotes, such as "0", '
        "got 'three'",
    ),
    "bare number": (
        lambda t: device(t, 1, 1).update(rank_id=3),
        '$.server_list[1].device[1].rank_id: expected text, "3" in quotes, got the number 3',
    ),
    "huge number": (
        lambda t: device(t, 1, 1).update(device_id="9" * 10),
        '$.server_list[1].device[1].device_id: expected a whole number in quotes, such as "0", '
        "got '9999999999'",
    ),
    "bad address": (
        lambda t: device(t, 0, 0).update(device_ip="192.168.0.256"),
        "$.server_list[0].device[0].device_ip: expected an IP address such as 192.168.100.101, "
        "got '192.168.0.256'",
    ),
    "placeholder address": (
        lambda t: device(t, 0, 1).update(device_ip="0.0.0.0"),
        "$.server_list[0].device[1].device_ip: '0.0.0.0' is a placeholder; "
        "ask with: hccn_tool -i 1 -ip -g",
    ),
    "address twice": (
        lambda t: device(t, 1, 0).update(device_ip="192.168.0.1"),
        "$.server_list[1].device[0].device_ip: '192.168.0.1' is the address of "
        "$.server_list[0].device[0] already",
    ),
    "no address": (
        lambda t: device(t, 1, 1).pop("device_ip"),
        "$.server_list[1].device[1].device_ip: missing, several servers need it; "
        "ask with: hccn_tool -i 1 -ip -g",
    ),
    "device twice": (
        lambda t: device(t, 0, 1).update(device_id="0"),
        "$.server_list[0].device[1].device_id: '0' is that of $.server_list[0].device[0] "
        "on the same server",
    ),
    "server twice": (
        lambda t: t["server_list"][1].update(server_id="10.0.0.1"),
        "$.server_list[1].server_id: '10.0.0.1' is the name of $.server_list[0] already",
    ),
    "placeholder server": (
        lambda t: t["server_list"][1].update(server_id="0.0.0.0"),
        "$.server_list[1]: '0.0.0.0' is no address at which other servers reach this one",
    ),
    "loopback server": (
        lambda t: t["server_list"][1].update(server_id="node", host_ip="127.0.1.1"),
        "$.server_list[1]: '127.0.1.1' is no address at which other servers reach this one",
    ),
    "long name": (
        lambda t: t["server_list"][0].update(server_id="x" * 65),
        "$.server_list[0].server_id: expected text of 1 to 64 printable characters, got "
        f"'{'x' * 60}'...",
    ),
    "no object": (
        lambda t: t["server_list"].append(7),
        "$.server_list[2]: expected an object, got the number 7",
    ),
    "no devices": (
        lambda t: t["server_list"].append({"server_id": "10.0.0.3", "device": []}),
        "$.server_list[2].device: expected a list of objects, got an empty list",
    ),
}


@pytest.mark.parametrize("name", ONE_FAULT)
def test_a_fault_is_told_with_its_place_its_value_and_what_would_be_right(name: str) -> None:
    change, expected = ONE_FAULT[name]
    plain = listed(2, 2)
    change(plain)
    found = faults_of(plain)
    assert expected in found
    # An added server has consequences of its own, other slips have none.
    assert len(found) == 1 or name == "no devices", found


def test_ranks_with_a_gap_and_one_given_twice() -> None:
    plain = listed(2, 2)
    device(plain, 1, 0)["rank_id"] = "1"
    device(plain, 1, 1)["rank_id"] = "9"
    assert faults_of(plain) == [
        "$.server_list[1].device[0].rank_id: '1' is the rank of "
        "$.server_list[0].device[1].rank_id already; each is given once",
        "$.server_list[1].device[1].rank_id: '9' is too large, 4 devices have the ranks 0-3",
        "$: nobody has rank 2-3, 4 devices have the ranks 0-3",
    ]


def test_ranks_of_two_servers_do_not_interleave() -> None:
    plain = listed(2, 2)
    device(plain, 0, 1)["rank_id"], device(plain, 1, 0)["rank_id"] = "2", "1"
    rule = "those of one server have to follow one another without a gap"
    assert faults_of(plain) == [
        f"$.server_list[0]: has the ranks 0, 2; {rule}",
        f"$.server_list[1]: has the ranks 1, 3; {rule}",
    ]


def test_a_server_with_fewer_devices_is_named() -> None:
    assert faults_of(listed(2, 1, 2)) == [
        "$.server_list[1]: 1 devices, other servers have 2; all have to have as many"
    ]


def test_another_number_of_ranks_than_the_job_has() -> None:
    expected = "$: has 4 devices, the job has 8 ranks; each needs one"
    assert faults_of(listed(2, 2), num_ranks=8) == [expected]
    assert faults_of(listed(2, 2), num_ranks=4) == []


def test_super_pods_and_their_numbers_are_held_against_the_servers() -> None:
    plain = listed(1, 1, 1, version="1.2")
    first, second = {"server_id": "10.0.0.1"}, {"server_id": "10.0.0.2"}
    plain["super_pod_list"] = [
        {"super_pod_id": "0", "server_list": [first, {"server_id": "10.0.0.4"}]},
        {"super_pod_id": "0", "server_list": [first, second]},
    ]
    del device(plain, 1, 0)["super_device_id"]
    del device(plain, 2, 0)["device_ip"]
    faults = faults_of(plain)
    assert [fault.partition(": ")[0] for fault in faults] == [
        "$.server_list[2].device[0].device_ip",
        "$.server_list[1].device[0].super_device_id",
        "$.super_pod_list[1].super_pod_id",
        "$.super_pod_list[1].server_list[0].server_id",
        "$.super_pod_list[0].server_list[1].server_id",
        "$.server_list[2]",
    ]
    assert "several super pods need it" in faults[0]
    assert "npu-smi info -t spod-info" in faults[1]
    assert "is in no super pod" in faults[-1]


def test_servers_of_a_super_pod_stand_together_and_their_numbers_differ() -> None:
    plain = listed(1, 1, 1, version="1.2")
    names = [server["server_id"] for server in plain["server_list"]]
    plain["super_pod_list"] = [
        {"super_pod_id": "a", "server_list": [{"server_id": names[0]}, {"server_id": names[2]}]},
        {"super_pod_id": "b", "server_list": [{"server_id": names[1]}]},
    ]
    device(plain, 2, 0)["super_device_id"] = "0"
    assert faults_of(plain) == [
        "$.super_pod_list[0]: ranks of other super pods lie between those of its servers",
        "$.server_list[2].device[0].super_device_id: '0' is that of $.server_list[0].device[0] "
        "in the same super pod",
    ]


def test_an_operator_that_has_only_begun_is_waited_for() -> None:
    assert faults_of({"status": "initializing"}) == [ONE_FAULT["initializing"][1]]


def test_keys_given_twice_and_nan_are_faults_with_a_place() -> None:
    text = json.dumps(listed(1)).replace('"10.0.0.1"', '"10.0.0.1", "server_id": "10.0.0.2"')
    text = text.replace('"status"', '"note": [0, NaN], "status"')
    faults = examine_rank_table(text.encode(), source="t").faults
    assert [str(fault) for fault in faults] == [
        "$.note[1]: NaN is not JSON; write what is meant or take it out",
        "$.server_list[0].server_id: given more than once; leave one of them",
    ]


def test_a_table_with_faults_is_refused_with_all_of_them(tmp_path: Path) -> None:
    plain = listed(2, 2) | {"status": "initializing", "server_count": "1"}
    path = tmp_path / "hccl.json"
    path.write_text(json.dumps(plain))
    with pytest.raises(UsageError) as caught:
        load_rank_table(path, num_ranks=8)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: this rank table cannot be used:"
    assert [line.split(":")[0] for line in lines[1:]] == ["  $.status", "  $.server_count", "  $"]


def test_the_largest_group_of_hccl_has_none() -> None:
    assert faults_of(listed(*[16] * 2048, version="1.2"), num_ranks=32_768) == []


def test_a_thousand_faults_do_not_scroll_the_first_away(tmp_path: Path) -> None:
    plain = listed(*[1] * 1000)
    for server in plain["server_list"]:
        server["device"][0]["rank_id"] = "x"
    path = tmp_path / "hccl.json"
    path.write_text(json.dumps(plain))
    with pytest.raises(UsageError, match="and 950 more") as caught:
        load_rank_table(path)
    assert len(str(caught.value).splitlines()) == 52
