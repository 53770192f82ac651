"""Cores in containers, and workers beside their memory."""

import os
from pathlib import Path

import pytest

from raystage.devices import cores
from raystage.devices.cores import keep_near_memory, n_cores

TWO_NODES = ["0-3,8-11\n", "4-7,12-15\n"]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of 16 cores, nothing said of containers and memory."""
    bound = [set(range(16))]
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "_NUMA", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: bound[-1])
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, mine: bound.append(mine))
    return tmp_path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "350000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "200000\n"}, 16),
    ],
)
def test_a_containers_quota_counts_in_whole_cores(files: dict[str, str], expected: int, machine: Path) -> None:
    for name, text in files.items():
        (machine / name).parent.mkdir(exist_ok=True)
        (machine / name).write_text(text)
    assert n_cores() == expected


def test_cores_that_a_process_is_not_bound_to_do_not_count(machine: Path) -> None:
    os.sched_setaffinity(0, {3, 5})
    assert n_cores() == 2


def test_where_nothing_is_told_of_binding_it_is_the_machines_cores(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    _numa(machine, TWO_NODES)
    keep_near_memory(0, 2)
    assert n_cores() == 6


@pytest.mark.parametrize(
    ("n_here", "first_core_of_each"),
    [(1, [0]), (2, [0, 4]), (3, [0, 0, 0]), (4, [0, 0, 4, 4])],
)
def test_workers_that_share_out_evenly_stay_on_a_node_each(n_here: int, first_core_of_each: list[int], machine: Path) -> None:
    _numa(machine, TWO_NODES)
    for place, first in enumerate(first_core_of_each):
        os.sched_setaffinity(0, set(range(16)))
        keep_near_memory(place, n_here)
        expected = {0, 1, 2, 3, 8, 9, 10, 11} if first == 0 else {4, 5, 6, 7, 12, 13, 14, 15}
        assert os.sched_getaffinity(0) == (expected if n_here in (2, 4) else set(range(16)))


@pytest.mark.parametrize("texts", [[], ["0-15\n"], ["0-15\n", "\n"]])
def test_one_node_and_one_without_cores_bind_nobody(texts: list[str], machine: Path) -> None:
    _numa(machine, texts)
    keep_near_memory(0, 2)
    assert os.sched_getaffinity(0) == set(range(16))


def test_ten_nodes_come_in_the_order_of_their_numbers(machine: Path) -> None:
    _numa(machine, [f"{core}\n" for core in range(12)])
    keep_near_memory(2, 12)
    assert os.sched_getaffinity(0) == {2}


@pytest.mark.parametrize("texts", [TWO_NODES, ["rubbish\n", "0-3\n"]])
def test_where_binding_is_forbidden_or_nodes_are_told_otherwise_training_goes_on(
    texts: list[str], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(pid: int, mine: set[int]) -> None:
        raise PermissionError

    _numa(machine, texts)
    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    keep_near_memory(0, 2)
    assert os.sched_getaffinity(0) == set(range(16))


def test_cores_that_may_not_be_used_are_left_out(machine: Path) -> None:
    _numa(machine, TWO_NODES)
    os.sched_setaffinity(0, {2, 3, 4})
    keep_near_memory(0, 2)
    assert os.sched_getaffinity(0) == {2, 3}


def _numa(machine: Path, texts: list[str]) -> None:
    for number, text in enumerate(texts):
        (machine / f"node{number}").mkdir()
        (machine / f"node{number}" / "cpulist").write_text(text)
