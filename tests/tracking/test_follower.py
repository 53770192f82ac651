import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raystage.tracking import Follower, JsonlWriter, SinkError

Record = dict[str, Any]


class Listener:
    name = "listener"

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.decisions: list[Record] = []
        self.broken = False
        self.refusals = 0

    def consume(self, records: Sequence[Record], decisions: Sequence[Record]) -> None:
        if self.broken:
            self.refusals += 1
            raise SinkError("no connection")
        self.records += records
        self.decisions += decisions

    def steps(self, kind: str = "train") -> list[int]:
        return [record["step"] for record in self.records if record["kind"] == kind]


@contextmanager
def following(run_dir: Path, *sinks: Any) -> Iterator[Follower]:
    follower = Follower(run_dir, sinks, poll_interval_s=0.01)
    follower.start()
    yield follower
    follower.stop(timeout_s=2.0)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "waited 5 s"
        time.sleep(0.005)


def train(*steps: int) -> list[Record]:
    return [{"kind": "train", "step": step} for step in steps]


def start(attempt: int, step: int) -> Record:
    return {"kind": "start", "attempt": attempt, "step": step}


def write(writer: JsonlWriter, records: Sequence[Record]) -> None:
    for record in records:
        writer.write(record)


def test_files_that_come_later_and_grow(tmp_path: Path) -> None:
    listener = Listener()
    with following(tmp_path, listener):
        time.sleep(0.03)
        writer = JsonlWriter(tmp_path / "metrics.jsonl")
        write(writer, train(1, 2))
        wait_for(lambda: listener.steps() == [1, 2])
        write(writer, train(3))
        JsonlWriter(tmp_path / "decisions.jsonl").write({"decision_id": 1})
    assert listener.steps() == [1, 2, 3]
    assert listener.decisions == [{"decision_id": 1}]


def test_a_partial_line_waits_for_its_end(tmp_path: Path) -> None:
    listener = Listener()
    path = tmp_path / "metrics.jsonl"
    with following(tmp_path, listener), path.open("a", buffering=1) as file:
        file.write('{"kind": "train", "step": 1}\n{"kind": "train",')
        file.flush()
        wait_for(lambda: listener.steps() == [1])
        time.sleep(0.03)
        file.write(' "step": 2}\n')
        wait_for(lambda: listener.steps() == [1, 2])


def test_replayed_steps_come_once_new_ones_and_the_restart_too(tmp_path: Path) -> None:
    listener = Listener()
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    with following(tmp_path, listener):
        write(writer, [start(1, 0), *train(1, 2, 3, 4), {"kind": "val", "step": 2}])
        wait_for(lambda: len(listener.records) == 6)
        writer.truncate_after(2)
        write(writer, [start(2, 2), *train(3, 4, 5), {"kind": "val", "step": 4}])
    assert listener.steps() == [1, 2, 3, 4, 5]
    assert listener.steps("val") == [2, 4]
    assert [r["attempt"] for r in listener.records if r["kind"] == "start"] == [1, 2]


def test_steps_unread_when_the_file_was_replaced_are_not_missed(tmp_path: Path) -> None:
    listener = Listener()
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    with following(tmp_path, listener) as follower:
        write(writer, train(1))
        wait_for(lambda: listener.steps() == [1])
        listener.broken = True
        write(writer, train(2, 3))
        wait_for(lambda: listener.refusals > 0)
        write(writer, train(4, 5))
        writer.truncate_after(4)
        write(writer, train(5, 6))
        listener.broken = False
        assert follower.stop(timeout_s=2.0) == {"listener": 0}
    assert listener.steps() == [1, 2, 3, 4, 5, 6]


def test_several_records_at_one_step(tmp_path: Path) -> None:
    listener = Listener()
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    with following(tmp_path, listener):
        write(writer, [*train(1, 1), {"kind": "val", "step": 1}])
    assert (listener.steps(), listener.steps("val")) == ([1, 1], [1])


def test_a_replayed_decision_comes_once_a_changed_one_again(tmp_path: Path) -> None:
    listener = Listener()
    writer = JsonlWriter(tmp_path / "decisions.jsonl")
    first, second, changed = (
        {"decision_id": i, "kind": kind, "effective_step": 10 * i} for i, kind in ((1, "hold"), (2, "hold"), (2, "stop"))
    )
    with following(tmp_path, listener):
        write(writer, [first, second])
        wait_for(lambda: len(listener.decisions) == 2)
        writer.truncate_after(0, "effective_step")
        write(writer, [first, changed])
    assert listener.decisions == [first, second, changed]


def test_an_outage_is_said_once_and_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken, whole = Listener(), Listener()
    broken.name, broken.broken = "MLflow", True
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    with following(tmp_path, broken, whole) as follower:
        write(writer, train(1, 2))
        wait_for(lambda: whole.steps() == [1, 2])
        wait_for(lambda: broken.refusals >= 2)
        write(writer, train(3))
        wait_for(lambda: whole.steps() == [1, 2, 3])
        broken.broken = False
        assert follower.stop(timeout_s=3.0) == {"MLflow": 0, "listener": 0}
    assert broken.steps() == [1, 2, 3]
    assert [m for m in caplog.messages if "no connection" in m] == [
        "MLflow: no connection; training goes on, records wait in the run folder and are sent later"
    ]


def test_stop_is_bounded_and_counts_what_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    listener.broken = True
    write(JsonlWriter(tmp_path / "metrics.jsonl"), train(*range(7)))
    with following(tmp_path, listener) as follower:
        wait_for(lambda: listener.refusals > 0)
        began = time.monotonic()
        assert follower.stop(timeout_s=0.3) == {"listener": 7}
        assert time.monotonic() - began < 1.5
    assert any("7 records not delivered" in message for message in caplog.messages)


def test_a_sink_that_hangs_holds_up_neither_the_others_nor_the_stop(tmp_path: Path) -> None:
    class Hanging(Listener):
        name = "hanging"

        def consume(self, records: Sequence[Record], decisions: Sequence[Record]) -> None:
            released.wait(10)

    hanging, whole, released = Hanging(), Listener(), threading.Event()
    write(JsonlWriter(tmp_path / "metrics.jsonl"), train(1))
    with following(tmp_path, hanging, whole) as follower:
        wait_for(lambda: whole.steps() == [1])
        began = time.monotonic()
        assert follower.stop(timeout_s=0.2) == {"hanging": 1, "listener": 0}
        assert time.monotonic() - began < 1.5
        released.set()


def test_stop_reads_past_chunks_that_are_all_known(tmp_path: Path) -> None:
    listener = Listener()
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    write(writer, train(*range(1, 5001)))
    follower = Follower(tmp_path, [listener], poll_interval_s=60.0)
    follower.start()
    wait_for(lambda: len(listener.records) == 5000)
    writer.truncate_after(4999)
    write(writer, train(5000, 5001))
    follower.stop()
    assert listener.steps() == list(range(1, 5002))
