"""Which of torch's libraries multiplies float32 on a CPU: attention's small products by MKL, the others by oneDNN where it is quicker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import raystage.devices.float32_products as products
import raystage.devices.processor as processor_module
from raystage.devices.device import pick_device
from raystage.models.checkpointing import checkpoint_blocks
from raystage.models.family import build_model
from raystage.models.spec import ModelSpec
from raystage.models.trainee import Trainee

MKL, ONEDNN = "highest", "medium"
SIZES = {"vocab_size": 64, "context_length": 512, "n_layer": 2, "d_model": 16, "n_head": 2, "n_kv_head": 1, "head_dim": 8, "d_ff": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"tied": True, "rope_theta": None, "dropout": 0.0, "n_kv_head": 2},
    "llama": {"tied": False, "rope_theta": 10_000.0, "dropout": 0.0},
}


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(MKL)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("maker", "expected"), [("AuthenticAMD", ONEDNN), ("GenuineIntel", MKL), (None, MKL)])
def test_the_device_picks_by_the_processors_maker(
    maker: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if maker is not None:
        cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {maker}\n")
    monkeypatch.setattr(processor_module, "_CPUINFO", cpuinfo)
    monkeypatch.setattr(products, "_keeps_all_bits", lambda: True)
    pick_device("cpu").prepare(torch.get_num_threads(), deterministic=False)
    assert torch.get_float32_matmul_precision() == expected


def test_a_library_that_rounds_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor_module, "_CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("vendor_id\t: AuthenticAMD\n")
    with torch.autocast("cpu", torch.bfloat16):  # as AMX does
        products.choose_quick_products()
    assert torch.get_float32_matmul_precision() == MKL


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointed", [0, 2])
@pytest.mark.parametrize(("length", "attention_by"), [(16, MKL), (512, ONEDNN)])
def test_short_attention_is_by_mkl_forward_and_backward_and_all_else_is_not(
    family: str, checkpointed: int, length: int, attention_by: str
) -> None:
    by = _libraries(family, checkpointed, length, ONEDNN)
    attention = {name for name in by if "attention" in name}
    assert len(attention) == 2, "forward and backward"
    assert {library for name in attention for library in by[name]} == {attention_by}
    assert {library for name in by if name.startswith(("mm", "addmm")) for library in by[name]} == {ONEDNN}
    assert torch.get_float32_matmul_precision() == ONEDNN


def test_where_mkl_is_quicker_nothing_changes_hands() -> None:
    assert set.union(*_libraries("gpt2", 0, 16, MKL).values()) == {MKL}


def test_without_gradients_too() -> None:
    with torch.no_grad():
        by = _libraries("gpt2", 0, 16, ONEDNN)
    assert {library for name, seen in by.items() if "attention" in name for library in seen} == {MKL}
    assert torch.get_float32_matmul_precision() == ONEDNN


def test_a_failure_in_between_changes_nothing() -> None:
    torch.set_float32_matmul_precision(ONEDNN)
    with pytest.raises(ZeroDivisionError):
        products.small_products(lambda: torch.ones(1) * (1 // 0), torch.ones(1))
    assert torch.get_float32_matmul_precision() == ONEDNN


def _libraries(family: str, checkpointed: int, length: int, usual: str) -> dict[str, set[str]]:
    """By the operation's name, whose products there were when it ran, in a pass forward and, with gradients, backward."""
    spec = ModelSpec(family=family, eot_id=0, **{**SIZES, **FAMILIES[family]})
    model = build_model(spec, 0)
    checkpoint_blocks(model, spec, checkpointed)
    tokens = torch.arange(2 * length).view(2, length) % 64
    torch.set_float32_matmul_precision(usual)
    with Seen() as seen:
        loss = Trainee(model, spec)(tokens, tokens)
        if loss.requires_grad:
            loss.backward()
    return seen.by


class Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.by: dict[str, set[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.lstrip("_")
        self.by.setdefault(name, set()).add(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))
