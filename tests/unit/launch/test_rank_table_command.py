"""`suite rank-table` from the outside: what is printed where, and with which exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.launch.rank_table import RankTable, load_rank_table, write_rank_table
from suite.launch.rank_table.model import RankDevice, Server

Run = Callable[..., Any]


@pytest.fixture
def table() -> RankTable:
    """Two servers with two devices each."""
    servers = []
    for node in range(2):
        first, second = (
            RankDevice(2 * node + index, index, f"192.168.{node}.{index + 1}") for index in range(2)
        )
        servers.append(Server(f"10.0.0.{node + 1}", (first, second)))
    return RankTable("1.0", tuple(servers))


@pytest.fixture
def path(table: RankTable, tmp_path: Path) -> Path:
    path = tmp_path / "hccl.json"
    write_rank_table(table, "1.0", path)
    return path


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_table_without_faults_is_shown(path: Path, run_suite: Run) -> None:
    finished = run_suite("rank-table", "check", path, "--devices", "4")
    assert (finished.code, finished.stderr) == (0, "")
    assert "rank table 1.0: 4 ranks on 2 servers, 2 each; rank 0 at 10.0.0.1" in finished.stdout
    assert finished.stdout.splitlines()[-1].split() == [
        "1",
        "10.0.0.2",
        "10.0.0.2",
        "2-3",
        "0,",
        "1",
    ]


def test_one_server_is_one(table: RankTable, path: Path, run_suite: Run) -> None:
    alone = Server("10.0.0.1", table.master.devices[:1])
    write_rank_table(RankTable("1.0", (alone,)), "1.0", path)
    assert "1 rank on 1 server, 1 each" in run_suite("rank-table", "check", path).stdout


def test_warnings_go_to_stderr(path: Path, run_suite: Run) -> None:
    spoil(path, '"version"', '"board_id": "0x0000", "version"')
    finished = run_suite("rank-table", "check", path)
    assert finished.code == 0
    assert finished.stderr == "warning: not used: $.board_id\n"


def test_all_faults_are_listed_with_exit_code_3(path: Path, run_suite: Run) -> None:
    spoil(path, '"completed"', '"initializing"')
    spoil(path, '"server_count": "2"', '"server_count": "5"')
    finished = run_suite("rank-table", "check", path, "--devices", "8")
    assert finished.code == 3
    assert finished.stdout.splitlines() == [
        "$.status: 'initializing': the operator is still writing; wait for 'completed'",
        "$.server_count: '5' is wrong, number of servers: 2",
        "$: has 4 devices, the job has 8 ranks; each needs one",
    ]
    assert finished.stderr == f"suite: {path}: 3 faults\n"


def test_a_damaged_file_is_one_sentence_with_exit_code_1(path: Path, run_suite: Run) -> None:
    spoil(path, '"version"', '// for A2\n"version"')
    finished = run_suite("rank-table", "check", path)
    assert (finished.code, finished.stdout) == (1, "")
    assert finished.stderr.startswith(f"suite: {path}:3:5: comments are not allowed in JSON")
    assert run_suite("rank-table", "check", path.with_name("absent.json")).code == 1


def test_json_has_the_table_or_the_faults(path: Path, run_suite: Run) -> None:
    finished = run_suite("rank-table", "check", path, "--json")
    document = json.loads(finished.stdout)
    assert (finished.code, document["schema"]) == (0, "suite.rank-table-check/1")
    assert (document["faults"], document["table"]["num_ranks"]) == ([], 4)
    assert document["table"]["servers"][1]["devices"][0]["rank"] == 2
    spoil(path, '"rank_id": "3"', '"rank_id": "2"')
    finished = run_suite("rank-table", "check", path, "--json")
    document = json.loads(finished.stdout)
    assert (finished.code, document["table"]) == (3, None)
    assert document["faults"][1] == {
        "path": "$",
        "message": "nobody has rank 3, 4 devices have the ranks 0-3",
    }


def test_convert_writes_another_format_and_never_over_a_file(
    path: Path, table: RankTable, run_suite: Run
) -> None:
    output = path.with_name("old.json")
    finished = run_suite("rank-table", "convert", path, "--to", "template2", "-o", output)
    assert (finished.code, finished.stdout) == (0, f"{output}\n")
    assert load_rank_table(output).servers == table.servers
    again = ("rank-table", "convert", path, "--to", "1.0", "-o", output)
    finished = run_suite(*again)
    assert finished.code == 2
    assert finished.stderr == f"suite: {output}: exists; choose another name or pass --force\n"
    assert run_suite(*again, "--force").code == 0
    assert load_rank_table(output) == table


def test_convert_says_what_it_leaves_out(path: Path, run_suite: Run) -> None:
    spoil(path, '"server_id": "10.0.0.1"', '"server_id": "10.0.0.1", "host_ip": "10.1.0.1"')
    spoil(path, '"version"', '"board_id": "0x0000", "version"')
    output = path.with_name("old.json")
    finished = run_suite("rank-table", "convert", path, "--to", "template2", "-o", output)
    assert finished.stderr.splitlines() == [
        "warning: not used: $.board_id",
        "warning: no place in template2 for host_ip; left out",
    ]


def test_convert_refuses_what_it_cannot_make(path: Path, run_suite: Run) -> None:
    output = path.with_name("a3.json")
    finished = run_suite("rank-table", "convert", path, "--to", "1.2", "-o", output)
    assert finished.code == 2
    assert "version 1.2 needs the super_device_id of every device" in finished.stderr
    spoil(path, '"version": "1.0"', '"version": "2.0"')
    finished = run_suite("rank-table", "convert", path, "--to", "1.0", "-o", output)
    assert finished.code == 1
    assert "rank table version 2.0 (Atlas 350, 850 and 950) cannot be used" in finished.stderr
    assert not output.exists()


def test_super_device_id_outside_version_1_2_is_not_used(path: Path, run_suite: Run) -> None:
    """Half of the devices have one: no fault, and no source of a table of version 1.2."""
    spoil(path, '"device_id": "0"', '"device_id": "0", "super_device_id": "7"')
    finished = run_suite("rank-table", "check", path)
    assert finished.code == 0
    assert finished.stderr == "warning: not used: $.server_list[].device[].super_device_id\n"
    spoil(path, '"device_id": "1"', '"device_id": "1", "super_device_id": "8"')
    output = path.with_name("a3.json")
    finished = run_suite("rank-table", "convert", path, "--to", "1.2", "-o", output)
    assert finished.code == 2 and not output.exists()
    assert "version 1.2 needs the super_device_id of every device" in finished.stderr


def test_make_takes_addresses_from_the_hccn_conf_of_each_host(
    tmp_path: Path, table: RankTable, run_suite: Run
) -> None:
    for node in range(2):
        lines = [f"address_{index}=192.168.{node}.{index + 1}" for index in range(8)]
        (tmp_path / f"{node}.conf").write_text("\n".join(lines))
    output = tmp_path / "hccl.json"
    flags = ["--hosts", "10.0.0.1,10.0.0.2", "--devices-per-host", "2", "-o", output]
    files = [f"--hccn=10.0.0.{node + 1}={tmp_path / f'{node}.conf'}" for node in range(2)]
    finished = run_suite("rank-table", "make", *flags, *files)
    assert (finished.code, finished.stdout, finished.stderr) == (0, f"{output}\n", "")
    assert load_rank_table(output) == table
    whole = ["--hosts", "10.0.0.1,10.0.0.2", "-o", output, "--force", *files]
    assert run_suite("rank-table", "make", *whole).code == 0
    assert load_rank_table(output).devices_per_server == 8
    finished = run_suite("rank-table", "make", *flags, "--force")
    assert finished.code == 2
    assert "10.0.0.1: no device addresses, which several hosts need" in finished.stderr


def test_make_takes_addresses_from_a_flag_or_leaves_them_out(
    tmp_path: Path, run_suite: Run
) -> None:
    output = tmp_path / "hccl.json"
    flags = ["--hosts", "localhost", "--devices-per-host", "2", "-o", output]
    finished = run_suite("rank-table", "make", *flags, "--device-ips", "192.168.0.1,192.168.0.2")
    assert (finished.code, finished.stderr) == (0, "")
    assert load_rank_table(output).master.server_id == "127.0.0.1"
    finished = run_suite("rank-table", "make", *flags, "--force")
    assert finished.code == 0
    assert finished.stderr.startswith(
        "warning: no device_ip: enough for one server of Atlas A2 or A3"
    )
