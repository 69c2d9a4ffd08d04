"""Rank tables written in other formats, and made from a list of hosts."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.errors import InputError, UsageError
from suite.launch.rank_table import RankTable, Version, load_rank_table, write_rank_table
from suite.launch.rank_table.examining import examine_rank_table
from suite.launch.rank_table.making import (
    load_hccn_conf,
    make_rank_table,
    read_device_addresses,
    resolve_host,
)
from suite.launch.rank_table.model import RankDevice, Server, SuperPod
from suite.launch.rank_table.writing import format_rank_table, list_losses


def build_table(num_servers: int, size: int, version: Version = "1.0") -> RankTable:
    servers = []
    for node in range(num_servers):
        devices = (
            RankDevice(
                node * size + index,
                index,
                f"192.168.{node}.{index + 1}",
                node * size + index if version == "1.2" else None,
            )
            for index in range(size)
        )
        servers.append(Server(f"10.0.0.{node + 1}", tuple(devices)))
    pods = (SuperPod("0", tuple(server.server_id for server in servers)),)
    return RankTable(version, tuple(servers), pods if version == "1.2" else ())


def read_back(table: RankTable, version: Version) -> RankTable:
    text, found = format_rank_table(table, version)
    assert examine_rank_table(text.encode(), source="t").table == found
    assert found.version == version
    return found


NAMES = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=64)


@st.composite
def tables(draw: st.DrawFn, *, size: int | None = None) -> RankTable:
    """Any table of version 1.0; of a `size` that template 2 has, with numbers as in there."""
    num_servers = draw(st.integers(1, 4))
    wanted = size or draw(st.integers(1, 17))
    lowest = st.integers(0, 2**32 - 18) if size is None else st.just(0)
    total = num_servers * wanted
    addresses = draw(
        st.lists(st.ip_addresses(v=4).filter(int), min_size=total, max_size=total, unique=True)
    )
    has_addresses = num_servers > 1 or size is not None or draw(st.booleans())
    names = draw(st.lists(NAMES, min_size=num_servers, max_size=num_servers, unique=True))
    servers = []
    for node, name in enumerate(names):
        first = draw(lowest)
        devices = [
            RankDevice(rank, first + index, str(addresses[rank]) if has_addresses else None)
            for index, rank in enumerate(range(node * wanted, (node + 1) * wanted))
        ]
        hosts = st.none() if size is not None else st.none() | st.just(f"10.0.0.{node + 1}")
        servers.append(Server(name, tuple(devices), draw(hosts), draw(hosts)))
    return RankTable("1.0", tuple(servers))


@given(table=tables())
def test_version_1_0_reads_back_as_it_was(table: RankTable) -> None:
    assert read_back(table, "1.0") == table


@given(table=st.sampled_from([1, 2, 4, 8]).flatmap(lambda size: tables(size=size)))
def test_template_2_becomes_version_1_0_and_loses_nothing(table: RankTable) -> None:
    old = read_back(table, "template2")
    assert old.servers == table.servers
    assert read_back(old, "1.0") == table


def test_version_1_2_keeps_super_pods_and_the_others_say_that_they_cannot() -> None:
    table = build_table(2, 2, "1.2")
    assert read_back(table, "1.2") == table
    assert list_losses(table, "1.2") == []
    assert list_losses(table, "1.0") == ["super_pod_list", "super_device_id"]
    assert read_back(table, "1.0").super_pods == ()
    hosted = replace(table.servers[0], host_ip="10.1.0.1")
    assert "host_ip" in list_losses(RankTable("1.0", (hosted,)), "template2")


def test_version_1_2_cannot_be_made_without_super_device_id(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs the super_device_id of every device, rank 0 has"):
        write_rank_table(build_table(1, 2), "1.2", tmp_path / "out.json")
    assert list(tmp_path.iterdir()) == []


def test_template_2_is_refused_where_its_products_have_no_such_server() -> None:
    with pytest.raises(UsageError, match="these 3 ranks make no rank table of template 2") as told:
        format_rank_table(build_table(1, 3), "template2")
    assert "3 devices; in template 2 a server has 1, 2, 4 or 8" in str(told.value)


def test_every_value_is_written_as_text(tmp_path: Path) -> None:
    write_rank_table(build_table(1, 1), "1.0", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "status": "completed",
        "version": "1.0",
        "server_count": "1",
        "server_list": [
            {
                "server_id": "10.0.0.1",
                "device": [{"device_id": "0", "device_ip": "192.168.0.1", "rank_id": "0"}],
            }
        ],
    }
    assert load_rank_table(tmp_path / "out.json", num_ranks=1) == build_table(1, 1)


def test_a_place_that_cannot_be_written_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/out.json: cannot be written: "):
        write_rank_table(build_table(1, 1), "1.0", tmp_path / "file" / "out.json")


def test_ranks_follow_the_order_in_which_hosts_are_given() -> None:
    hosts = ["10.0.0.10", "10.0.0.9"]
    devices = {
        "10.0.0.9": {0: "192.168.0.1", 1: "192.168.0.2"},
        "10.0.0.10": {5: "192.168.1.2", 4: "192.168.1.1", 6: "192.168.1.3"},
    }
    table = make_rank_table(hosts, devices_per_host=2, devices=devices)
    assert table.servers == (
        Server("10.0.0.10", (RankDevice(0, 4, "192.168.1.1"), RankDevice(1, 5, "192.168.1.2"))),
        Server("10.0.0.9", (RankDevice(2, 0, "192.168.0.1"), RankDevice(3, 1, "192.168.0.2"))),
    )


def test_only_a_single_host_may_go_without_device_addresses() -> None:
    table = make_rank_table(["10.0.0.1"], devices_per_host=2, devices={})
    assert [one.device_ip for one in table.master.devices] == [None, None]
    _, written = format_rank_table(table, "1.0")
    assert "no device_ip" in written.warnings[0]
    with pytest.raises(UsageError, match="hccn_tool -i 0 -ip -g"):
        make_rank_table(["10.0.0.1", "10.0.0.2"], devices_per_host=2, devices={})


def test_what_is_wrong_with_hosts_and_addresses_is_said() -> None:
    def make(*hosts: str, addresses: str = "192.168.0.1") -> None:
        devices = {host: dict(enumerate(addresses.split(","))) for host in hosts}
        format_rank_table(make_rank_table(hosts, devices_per_host=1, devices=devices), "1.0")

    with pytest.raises(UsageError, match=r"'10.0.0.1' is the name of \$.server_list\[0\] already"):
        make("10.0.0.1", "10.0.0.1")
    with pytest.raises(UsageError, match=r"'192.168.0.1' is the address of"):
        make("10.0.0.1", "10.0.0.2")
    with pytest.raises(UsageError, match="expected an IP address such as"):
        make("10.0.0.1", addresses="192.168.0")
    with pytest.raises(UsageError, match=r"2 devices wanted, addresses of 1: 0: 192.168.0.1"):
        make_rank_table(["10.0.0.1"], devices_per_host=2, devices={"10.0.0.1": {0: "192.168.0.1"}})


def test_names_are_resolved_and_those_nobody_knows_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resolve_host("10.0.0.1") == "10.0.0.1"
    assert resolve_host("localhost") == "127.0.0.1"
    with pytest.raises(UsageError, match="an empty host"):
        resolve_host("")

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UsageError, match="node7: no address is known for this host"):
        resolve_host("node7")


def test_a_name_that_is_the_loopback_address_is_no_server_among_several() -> None:
    devices = {"localhost": {0: "192.168.0.1"}, "10.0.0.2": {0: "192.168.0.2"}}
    table = make_rank_table(["localhost", "10.0.0.2"], devices_per_host=1, devices=devices)
    with pytest.raises(UsageError, match=r"'127.0.0.1' is no address at which other servers"):
        format_rank_table(table, "1.0")


def test_the_number_of_devices_is_that_of_the_addresses() -> None:
    devices = {"10.0.0.1": {0: "192.168.0.1", 1: "192.168.0.2"}, "10.0.0.2": {4: "192.168.1.1"}}
    table = make_rank_table(["10.0.0.1"], devices_per_host=None, devices=devices)
    assert table.master.device_ids == (0, 1)
    with pytest.raises(UsageError, match=r"10.0.0.1 2, 10.0.0.2 1\), .*--devices-per-host"):
        make_rank_table(list(devices), devices_per_host=None, devices=devices)
    with pytest.raises(UsageError, match=r"^10.0.0.3: no device addresses"):
        make_rank_table(["10.0.0.1", "10.0.0.3"], devices_per_host=None, devices=devices)
    with pytest.raises(UsageError, match=r"how many devices.*--devices-per-host"):
        make_rank_table(["10.0.0.3"], devices_per_host=None, devices=devices)


HCCN_CONF = """\
address_1=192.168.101.101
netmask_1=255.255.255.0
netdetect_1=192.168.101.1
 address_0 = 192.168.100.101
netmask_0=255.255.255.0
"""


def test_addresses_come_from_hccn_conf(tmp_path: Path) -> None:
    path = tmp_path / "hccn.conf"
    path.write_text(HCCN_CONF)
    assert list(load_hccn_conf(path).items()) == [(0, "192.168.100.101"), (1, "192.168.101.101")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"netmask_0=255.255.255.0\n", "no line address_N=ADDRESS"),
        (b"address_0=192.168.1\n", ":1: expected an IP address, got '192.168.1'"),
        (b"address_0=10.0.0.1\naddress_0=10.0.0.2\n", ":2: address_0 is given twice"),
        (b"address_0=10.0.0.\xff\n", ":1: expected an IP address"),
        (b"\n" * (2**20 + 1), "larger than 1,048,576 bytes, no hccn.conf is"),
    ],
)
def test_a_damaged_hccn_conf_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hccn.conf"
    path.write_bytes(content)
    with pytest.raises(InputError) as told:
        load_hccn_conf(path)
    assert str(told.value).startswith(str(path))
    assert message in str(told.value)


def test_flags_give_addresses_by_host_in_order_or_by_name(tmp_path: Path) -> None:
    path = tmp_path / "hccn.conf"
    path.write_text(HCCN_CONF)
    found = read_device_addresses(["a", "b"], device_ips="1.1.1.1,1.1.1.2;1.1.2.1", hccn_files=[])
    assert found == {"a": {0: "1.1.1.1", 1: "1.1.1.2"}, "b": {0: "1.1.2.1"}}
    by_file = read_device_addresses(["a", "b"], device_ips=None, hccn_files=[f"b={path}"])
    assert list(by_file) == ["b"]


@pytest.mark.parametrize(
    ("device_ips", "hccn_files", "message"),
    [
        ("1.1.1.1;1.1.1.2", ["a=x"], "pass one of them"),
        ("1.1.1.1,1.1.1.2", [], "addresses of 1 hosts, --hosts has 2"),
        (None, ["c=x"], "--hccn c=x: expected HOST=FILE with a host of --hosts"),
        (None, ["hccn.conf"], "expected HOST=FILE"),
        (None, ["a=hccn.conf", "a=hccn.conf"], "a has a file already"),
    ],
)
def test_flags_that_do_not_fit_the_hosts_are_refused(
    device_ips: str | None,
    hccn_files: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hccn.conf").write_text(HCCN_CONF)
    with pytest.raises(UsageError, match=message):
        read_device_addresses(["a", "b"], device_ips=device_ips, hccn_files=hccn_files)
