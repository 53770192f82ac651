"""A run whose float32 products are oneDNN's has the losses of one whose products are MKL's."""

from pathlib import Path

import pytest
import torch

from raystage.devices import float32_products, processor
from raystage.tracking.records import RunRecords
from tests.training.gang_run import assert_same_run
from tests.training.made_run import configure, train_here

PLAN = ["training.duration=24 steps", "pacing.at=[0.25, 0.5, 0.75]"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_losses_through_growth_are_the_same(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(maker: str) -> RunRecords:
        (tmp_path / maker).write_text(f"vendor_id\t: {maker}\nflags\t: avx512f\n")
        monkeypatch.setattr(processor, "_CPUINFO", tmp_path / maker)
        return train_here(configure(tmp_path, [f"name={maker}", *PLAN, f"model.family={family}"]))

    honest, checked = float32_products._keeps_all_bits, list[bool]()

    def check() -> bool:
        checked.append(honest())
        return checked[-1]

    monkeypatch.setattr(float32_products, "_keeps_all_bits", check)
    by_mkl = run("GenuineIntel")
    assert torch.get_float32_matmul_precision() == "highest"
    by_onednn = run("AuthenticAMD")
    assert torch.get_float32_matmul_precision() == ("medium" if checked[0] else "highest")
    assert [d["kind"] for d in by_mkl.decisions] == ["raise_seq_len", "grow_depth", "grow_width"]
    assert_same_run(by_onednn, by_mkl)
