"""Between boundaries nobody waits for the device: counted by instrumentation, also where sending, deciding and recording go on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.training.made_run import configure, train_here
from tests.training.read_counter import ReadCounter


def test_no_value_is_read_from_the_device_in_a_step(tmp_path: Path) -> None:
    overrides = ["pacing.rule=slope", "pacing.at=null", "pacing.check_every_steps=10", "pacing.signal=probe"]
    with ReadCounter() as reads:
        records = train_here(configure(tmp_path, [*overrides, "training.duration=40 steps"]))
    assert len(records.train) == 40
    assert len(records.checks) >= 3, "the controller was sent points, and answered"
    assert reads.by_method["_train_one_step"] == 0, reads.by_method
    assert reads.by_method["_measure_probe"] == 0, reads.by_method


READS: dict[str, Callable[[torch.Tensor], object]] = {
    "float": float,
    "bool": bool,
    "item": torch.Tensor.item,
    "tolist": torch.Tensor.tolist,
    "cpu": torch.Tensor.cpu,
    "numpy": torch.Tensor.numpy,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_the_counter_sees_a_read(read: Callable[[torch.Tensor], object]) -> None:
    with ReadCounter() as reads:
        read(torch.ones(()) + 1)
    assert reads.by_method == {"elsewhere": 1}
