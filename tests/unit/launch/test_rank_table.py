"""Reading rank tables of each format, refusing what is none, and finding this machine in one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.errors import InputError, SuiteError, UsageError
from suite.launch.rank_table import RankTable, Version, find_own_server, load_rank_table
from suite.launch.rank_table.examining import Examined, examine_rank_table
from suite.launch.rank_table.model import RankDevice, Server, SuperPod
from suite.launch.rank_table.strict_json import MAX_BYTES
from suite.launch.rank_table.writing import format_rank_table

Json = dict[str, Any]


def listed(num_servers: int, size: int, version: Version = "1.0") -> Json:
    """A table of version 1.0, or of 1.2 with one super pod."""
    servers = []
    for node in range(num_servers):
        ranks = range(node * size, (node + 1) * size)
        devices = (
            RankDevice(rank, index, f"192.168.{node}.{index}", rank if version == "1.2" else None)
            for index, rank in enumerate(ranks)
        )
        servers.append(Server(f"10.0.0.{node + 1}", tuple(devices)))
    pods = (SuperPod("0", tuple(server.server_id for server in servers)),)
    text, _ = format_rank_table(RankTable("1.0", tuple(servers), pods), version)
    plain: Json = json.loads(text)
    return plain


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


def faults_of(table: Json) -> list[str]:
    return [str(fault) for fault in examine(table).faults]


def examine(table: Json) -> Examined:
    return examine_rank_table(json.dumps(table).encode(), source="t")


def read(table: Json) -> RankTable:
    found = examine(table).table
    assert found is not None, faults_of(table)
    return found


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
    table = read(listed(2, 2, "1.2"))
    assert table.version == "1.2"
    assert table.super_pods[0].server_ids == ("10.0.0.1", "10.0.0.2")
    assert table.servers[1].devices[1].super_device_id == 3


def test_addresses_of_the_host_and_the_pod_are_told_apart() -> None:
    plain = listed(2, 1)
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
    plain = listed(1, 2)
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


def test_what_is_odd_but_no_fault_is_a_warning() -> None:
    plain = listed(2, 2)
    plain["server_list"][0]["server_id"] = "node_0"
    for device in plain["server_list"][1]["device"]:
        device["device_id"] = str(7 - int(device["device_id"]))
    assert read(plain).warnings == (
        "$.server_list[0].server_id: 'node_0' is no address and there is no host_ip to reach it by",
        "$.server_list[1]: its ranks have the devices 7, 6, which ASCEND_RT_VISIBLE_DEVICES can "
        "only list in ascending order",
    )


def test_version_1_2_may_go_without_super_pods_or_have_uneven_ones() -> None:
    plain = listed(1, 2) | {"version": "1.2"}
    table = read(plain)
    assert table.warnings == ("version 1.2 without super_device_id: HCCL takes it as version 1.0",)
    assert read(json.loads(format_rank_table(table, "1.2")[0])) == table
    uneven = listed(3, 1, "1.2")
    members = uneven["super_pod_list"][0]["server_list"]
    uneven["super_pod_list"].append({"super_pod_id": "1", "server_list": [members.pop()]})
    (warning,) = read(uneven).warnings
    assert "super pods have different numbers of servers (1-2)" in warning


def test_one_super_pod_needs_no_device_addresses() -> None:
    plain = listed(2, 1, "1.2")
    for server in plain["server_list"]:
        del server["device"][0]["device_ip"]
    assert read(plain).num_ranks == 2


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
    "many objects": ('{"a": [' + "{}," * 150_000 + "{}]}", "more than 300,000 values"),
    "many numbers": ('{"a": [' + "1," * 300_000 + "1]}", "more than 300,000 values"),
    "many lists": ('{"a": [' + "[]," * 150_000 + "[]]}", "more than 300,000 values"),
    "many keys": ("{" + '"a": {"b": 1},' * 150_000 + '"a": 1}', "more than 300,000 values"),
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
    with pytest.raises(InputError, match="larger than 8,388,608 bytes"):
        load_rank_table(path)
    with pytest.raises(InputError, match="No such file"):
        load_rank_table(tmp_path / "absent.json")
    with pytest.raises(InputError, match="expected a file"):
        load_rank_table(tmp_path)


def test_this_machine_is_found_by_any_of_its_addresses() -> None:
    plain = listed(2, 1)
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
    plain = listed(2, 1)
    for number, server in enumerate(plain["server_list"]):
        server |= {"host_ip": "10.1.0.1", "container_ip": f"172.16.0.{number}"}
    assert find_own_server(read(plain), ["172.16.0.1", "10.1.0.1"]) == 1
    assert find_own_server(read(published()), []) == 0


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_damage_raises_nothing_but_what_people_are_shown(seed: int) -> None:
    draw = random.Random(seed)
    build = draw.choice([published, for_pods, lambda: listed(2, 2), lambda: listed(1, 2, "1.2")])
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
    plain = data.draw(st.sampled_from([published, for_pods, lambda: listed(2, 2, "1.2")]))()
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
        examined = examine(plain)
    except SuiteError:
        return
    assert (examined.table is None) == bool(examined.faults)
