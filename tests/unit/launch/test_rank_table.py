"""Reading rank tables of each format, and every fault told at once with its place."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.errors import InputError, SuiteError, UsageError
from suite.launch.rank_table import (
    RankTable,
    find_own_server,
    load_rank_table,
    local_addresses,
)
from suite.launch.rank_table_examining import examine_rank_table
from suite.launch.rank_table_json import MAX_BYTES

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


def published() -> Json:
    """The table for eight devices that was published beside an SSD for Ascend."""
    addresses = [f"192.168.{100 + index % 4}.{101 - index // 4}" for index in range(8)]
    instances = [
        {
            "devices": [{"device_id": str(rank), "device_ip": address}],
            "rank_id": str(rank),
            "server_id": "0.0.0.0",
        }
        for rank, address in enumerate(addresses)
    ]
    group = {"device_num": "8", "server_num": "1", "group_name": "", "instance_count": "8"}
    return {
        "board_id": "0x0000",
        "chip_info": "910",
        "deploy_mode": "lab",
        "group_count": "1",
        "group_list": [group | {"instance_list": instances}],
        "para_plane_nic_location": "device",
        "para_plane_nic_name": [f"eth{index}" for index in range(8)],
        "para_plane_nic_num": "8",
        "status": "completed",
    }


def for_pods() -> Json:
    """Template 2 as cluster managers write it: names of pods, no ranks."""

    def instance(pod: str, server: str, number: str, address: str) -> Json:
        devices = [{"device_id": number, "device_ip": address}]
        return {"pod_name": pod, "server_id": server, "devices": devices}

    instances = [
        instance("a", "10.0.0.9", "1", "192.168.9.1"),
        instance("b", "10.0.0.9", "0", "192.168.9.2"),
        instance("c", "10.0.0.10", "0", "192.168.10.1"),
        instance("d", "10.0.0.10", "1", "192.168.10.2"),
    ]
    group = {"group_name": "hccl_world_group", "instance_count": "4", "device_count": "4"}
    groups = [group | {"instance_list": instances}]
    return {"status": "completed", "group_count": "1", "group_list": groups}


def faults_of(table: Json, num_ranks: int | None = None) -> list[str]:
    content = json.dumps(table).encode()
    examined = examine_rank_table(content, source="t", num_ranks=num_ranks)
    assert (examined.table is None) == bool(examined.faults)
    return [str(fault) for fault in examined.faults]


def read(table: Json) -> RankTable:
    examined = examine_rank_table(json.dumps(table).encode(), source="t")
    assert examined.table is not None, examined.faults
    return examined.table


def test_the_published_table_is_template_2_with_a_placeholder() -> None:
    table = read(published())
    assert (table.version, table.num_ranks, table.num_servers) == ("template2", 8, 1)
    assert table.devices_per_server == 8
    assert table.master_addr == "127.0.0.1"
    assert table.master.devices[4].device_ip == "192.168.100.100"
    placeholder, ignored = table.warnings
    assert "server_id: 0.0.0.0 is a placeholder" in placeholder
    assert ignored.startswith("not used: $.board_id, $.chip_info, $.para_plane_nic_name")


def test_servers_and_devices_stand_in_the_order_of_their_ranks() -> None:
    plain = listed(2, 2)
    plain["server_list"].reverse()
    plain["server_list"][0]["device"].reverse()
    table = read(plain)
    assert [server.server_id for server in table.servers] == ["10.0.0.1", "10.0.0.2"]
    assert [server.ranks for server in table.servers] == [(0, 1), (2, 3)]
    assert table.master_addr == "10.0.0.1"
    assert table.warnings == ()


def test_version_1_2_has_super_pods() -> None:
    table = read(listed(2, 2, version="1.2"))
    assert table.version == "1.2"
    assert table.super_pods[0].server_ids == ("10.0.0.1", "10.0.0.2")
    assert table.servers[1].devices[1].super_device_id == 3


def test_addresses_of_the_host_and_the_pod_are_told_apart() -> None:
    plain = listed(1, 1)
    plain["server_list"][0] |= {"server_id": "node_0", "host_ip": "10.1.0.1"}
    plain["server_list"][1] |= {"host_ip": "10.1.0.2", "container_ip": "172.16.0.2"}
    table = read(plain)
    assert [server.host_addr for server in table.servers] == ["10.1.0.1", "172.16.0.2"]


def test_ranks_that_are_not_written_follow_server_id_as_text() -> None:
    table = read(for_pods())
    assert [server.server_id for server in table.servers] == ["10.0.0.10", "10.0.0.9"]
    assert [server.device_ids for server in table.servers] == [(0, 1), (0, 1)]
    assert table.servers[1].devices[0].device_ip == "192.168.9.2"
    assert any("ranks follow server_id as text" in warning for warning in table.warnings)


def test_one_server_may_leave_out_device_addresses_except_in_template_2() -> None:
    plain = listed(2)
    for device in plain["server_list"][0]["device"]:
        del device["device_ip"]
    (warning,) = read(plain).warnings
    assert "no device_ip" in warning
    old = published()
    old["group_list"][0]["instance_list"][3]["devices"][0]["device_ip"] = ""
    assert faults_of(old) == [
        "$.group_list[0].instance_list[3].devices[0].device_ip: missing, template 2 needs it; "
        "ask with: hccn_tool -i 3 -ip -g"
    ]


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


def test_counts_of_template_2_are_held_against_what_is_there() -> None:
    plain = published()
    plain |= {"group_count": "2", "para_plane_nic_location": "host"}
    plain["group_list"][0] |= {"device_num": "9", "server_num": "2", "instance_count": "7"}
    assert faults_of(plain) == [
        "$.para_plane_nic_location: expected 'device', HCCL takes no other, got 'host'",
        "$.group_count: '2' is wrong, number of groups: 1",
        "$.group_list[0].instance_count: '7' is wrong, number of instances in this group: 8",
        "$.group_list[0].device_num: '9' is wrong, number of devices in this group: 8",
        "$.group_list[0].server_num: '2' is wrong, number of servers in this group: 1",
    ]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0, 1, 2], "3 devices; in template 2 a server has 1, 2, 4 or 8"),
        ([3, 4], "has the devices 3-4; up to 4 have to be all of 0-3 or all of 4-7"),
        ([8], "'8' is too large, 7 is last"),
    ],
)
def test_template_2_is_for_servers_of_eight_devices_in_two_rings(
    numbers: list[int], expected: str
) -> None:
    plain = published()
    group = plain["group_list"][0]
    group["instance_list"] = group["instance_list"][: len(numbers)]
    for number, instance in zip(numbers, group["instance_list"], strict=True):
        instance["devices"][0]["device_id"] = str(number)
    group |= dict.fromkeys(("device_num", "instance_count"), str(len(numbers)))
    (fault,) = faults_of(plain)
    assert fault.endswith(expected)


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


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "empty": ("  \n", "empty; whoever writes the rank table has not done so yet"),
    "cut off": ('{"status": "comp', "1:12: not valid JSON: Unterminated string"),
    "cut off later": ('{"status": "completed",\n', "found the end of the file"),
    "comment": ('{"status": "completed", // usable\n}', "1:25: comments are not allowed in JSON"),
    "comment in a list": ('{\n"a": [1 /* x */]}', "2:9: comments are not allowed in JSON"),
    "comment first": ("# made by hand\n{}", "1:1: comments are not allowed in JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "byte order mark; save it as UTF-8 without BOM"),
    "utf-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8 text, wrong at byte 0"),
    "list": ("[]", "not a rank table: expected an object, got a list"),
    "something else": ('{"name": "x", "devices": 8}', "found name, devices"),
    "nested": ("[" * 100_000, "nested deeper than 20 levels"),
    "nested less": ('{"a":' * 30 + "1" + "}" * 30, "nested deeper than 20 levels"),
    "version 2.0": (
        '{"status": "completed", "version": "2.0", "rank_count": 1, "rank_list": []}',
        "rank table version 2.0 (Atlas 350, 850 and 950) cannot be used: in place of servers",
    ),
    "version 1.1": ('{"version": "1.1"}', "got version '1.1'"),
    "global": ('{"version": "1.0", "server_group_list": []}', "give the hccl.json of one job"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_rank_table_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    path = tmp_path / "hccl.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        load_rank_table(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_too_large_or_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "hccl.json"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="larger than 16,777,216 bytes"):
        load_rank_table(path)
    with pytest.raises(InputError, match="No such file"):
        load_rank_table(tmp_path / "absent.json")
    with pytest.raises(InputError, match="expected a file"):
        load_rank_table(tmp_path)


def test_a_table_with_faults_is_refused_with_all_of_them(tmp_path: Path) -> None:
    plain = listed(2, 2) | {"status": "initializing", "server_count": "1"}
    path = tmp_path / "hccl.json"
    path.write_text(json.dumps(plain))
    with pytest.raises(UsageError) as caught:
        load_rank_table(path, num_ranks=8)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: this rank table cannot be used:"
    assert [line.split(":")[0] for line in lines[1:]] == ["  $.status", "  $.server_count", "  $"]


def test_a_thousand_faults_do_not_scroll_the_first_away(tmp_path: Path) -> None:
    plain = listed(*[1] * 1000)
    for server in plain["server_list"]:
        server["device"][0]["rank_id"] = "x"
    path = tmp_path / "hccl.json"
    path.write_text(json.dumps(plain))
    with pytest.raises(UsageError, match="and 950 more") as caught:
        load_rank_table(path)
    assert len(str(caught.value).splitlines()) == 52


def test_this_machine_is_found_by_any_of_its_addresses() -> None:
    plain = listed(1, 1)
    plain["server_list"][1]["host_ip"] = "fd00:0::2"
    table = read(plain)
    assert find_own_server(table, ["127.0.0.1", "10.0.0.1"]) == 0
    assert find_own_server(table, ["10.0.0.2"]) == 1
    assert find_own_server(table, ["fd00::2"]) == 1
    with pytest.raises(UsageError, match=r"\(10.9.9.9\) is none of the servers .*10.0.0.1, fd00"):
        find_own_server(table, ["10.9.9.9"])
    with pytest.raises(UsageError, match="is 2 servers at once"):
        find_own_server(table, ["10.0.0.1", "fd00::2"])


def test_containers_of_one_machine_are_told_apart_and_a_placeholder_is_this_machine() -> None:
    plain = listed(1, 1)
    for number, server in enumerate(plain["server_list"]):
        server |= {"host_ip": "10.1.0.1", "container_ip": f"172.16.0.{number}"}
    assert find_own_server(read(plain), ["172.16.0.1", "10.1.0.1"]) == 1
    assert find_own_server(read(published()), []) == 0


def test_the_loopback_address_is_among_the_local_ones() -> None:
    assert {"127.0.0.1", "::1"} <= local_addresses()


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_damage_raises_nothing_but_what_people_are_shown(seed: int) -> None:
    draw = random.Random(seed)
    build = draw.choice(
        [published, for_pods, lambda: listed(2, 2), lambda: listed(2, version="1.2")]
    )
    content = bytearray(json.dumps(build()).encode())
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(content))
        match draw.randrange(4):
            case 0:
                content[at] = draw.randrange(256)
            case 1:
                del content[at : at + draw.randint(1, 40)]
            case 2:
                content[at:at] = draw.choice(
                    [b"{", b"[", b'"', b"\\ud800", b"1e999", b"null", b","]
                )
            case 3:
                content += content[at : at + 200]
    try:
        examined = examine_rank_table(bytes(content), source="t", num_ranks=4)
    except SuiteError as error:
        message = str(error)
    else:
        message = "\n".join([*map(str, examined.faults), *examined.warnings])
    message.encode()


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON_VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_value_in_any_place_is_a_fault_or_harmless(data: st.DataObject) -> None:
    plain = data.draw(st.sampled_from([published, for_pods, lambda: listed(2, 2, version="1.2")]))()
    place: Any = plain
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(JSON_VALUES)
        break
    try:
        examined = examine_rank_table(json.dumps(plain).encode(), source="t")
    except SuiteError:
        return
    assert (examined.table is None) == bool(examined.faults)
