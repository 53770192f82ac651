"""A run whose float32 products are oneDNN's has the losses of one whose products are MKL's."""

from pathlib import Path

import pytest
import torch

from raystage.devices import processor
from raystage.tracking.records import RunRecords
from tests.training.gang_run import assert_same_run
from tests.training.made_run import configure, train_here

PLAN = ["training.duration=24 steps", "pacing.at=[0.25, 0.5, 0.75]"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_losses_through_growth_are_the_same(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(maker: str) -> RunRecords:
        (tmp_path / maker).write_text(f"vendor_id\t: {maker}\n")
        monkeypatch.setattr(processor, "_CPUINFO", tmp_path / maker)
        return train_here(configure(tmp_path, [f"name={maker}", *PLAN, f"model.family={family}"]))

    torch.set_float32_matmul_precision("highest")
    by_mkl = run("GenuineIntel")
    assert torch.get_float32_matmul_precision() == "highest"
    by_onednn = run("AuthenticAMD")  # unless it rounds here
    torch.set_float32_matmul_precision("highest")
    assert [d["kind"] for d in by_mkl.decisions] == ["raise_seq_len", "grow_depth", "grow_width"]
    assert_same_run(by_onednn, by_mkl)
