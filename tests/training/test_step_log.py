"""An interval's records and points: means of a step's tokens, speeds of the interval, and what was measured at its end."""

import math
from types import SimpleNamespace

import pytest
import torch

import raystage.training.step_log as log_module
from raystage.devices.cpu import Cpu
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.training.step_log import Read, Step, StepLog


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands still, so that nothing is waited for but what a test says."""
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(log_module, "time", SimpleNamespace(perf_counter=lambda: clock.now_s))
    return clock


def step(number: int, loss_sum: float, tokens: int = 100, seconds: float = 2.0) -> Step:
    seen = {
        "step": number, "tokens_seen": 100 * number, "compute": 6.0, "lr": 0.1, "progress": 0.5,
        "taken": (0,), "held": False, "n_rollbacks": 0,
    }  # fmt: skip
    record = {"kind": "train", "time_s": 10.0 + number}
    return Step(record, seen, tokens, 1e6 * tokens, seconds, torch.tensor(loss_sum), torch.tensor(0.5 * number))


def read_of(steps: list[Step], second_moment: float | None = None) -> Read:
    log = StepLog(pick_device("cpu"), Ranks())
    for each in steps:
        log.add(each)
    log.start_read(None, None if second_moment is None else torch.tensor(second_moment))
    read = log.finish_read(wait=True)
    assert read is not None
    assert log.finish_read(wait=True) is None, "given out once"
    return read


def test_a_loss_is_the_mean_of_its_steps_tokens_and_a_speed_that_of_the_interval() -> None:
    read = read_of([step(1, 300.0), step(2, 250.0, tokens=50, seconds=1.0)], second_moment=0.25)
    assert [record["loss"] for record in read.records] == [3.0, 5.0]
    assert [record["grad_norm"] for record in read.records] == [0.5, 1.0]
    assert [record["second_moment"] for record in read.records] == [None, 0.25], "measured after the last step"
    assert [record["tokens_per_s"] for record in read.records] == pytest.approx([50.0, 50.0])
    assert read.flops_per_s == pytest.approx(150e6 / 3.0)
    assert [(point.step, point.loss, point.seconds) for point in read.points] == [(1, 3.0, 11.0), (2, 5.0, 12.0)]


def test_what_a_validation_waits_for_is_the_steps_time(clock: SimpleNamespace) -> None:
    """A device that works behind the host's back is still at them when the validation asks for its first number."""

    class Behind(Cpu):
        def synchronize(self) -> None:
            clock.now_s += 0.2

    log = StepLog(Behind(), Ranks())
    for number in (1, 2):
        log.add(step(number, 300.0, seconds=0.3))
        log.wait()
        log.start_read(None, None)
        read = log.finish_read(wait=True)
        assert read is not None
        assert read.records[0]["tokens_per_s"] == pytest.approx(100 / 0.5), "of this interval alone"


@pytest.mark.parametrize(("sums", "first"), [([300.0, 250.0], None), ([300.0, math.nan, math.inf], 2)])
def test_the_first_step_that_is_not_finite_is_named(sums: list[float], first: int | None) -> None:
    assert read_of([step(number, total) for number, total in enumerate(sums, start=1)]).first_bad_step == first


def test_no_step_is_no_reading() -> None:
    log = StepLog(pick_device("cpu"), Ranks())
    log.start_read(None, None)
    assert log.finish_read(wait=True) is None
