"""Which of torch's libraries multiplies float32 on a CPU: attention's small products by MKL, the others by oneDNN where it is quicker."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

import raystage.devices.float32_products as products
from raystage.data.batch import document_mask
from raystage.devices import processor
from raystage.devices.device import pick_device
from raystage.models import attention
from raystage.models.checkpointing import checkpoint_blocks
from raystage.models.compiled_blocks import compile_blocks
from raystage.models.family import build_model
from raystage.models.spec import ModelSpec
from raystage.models.trainee import Trainee

MKL, ONEDNN = "highest", "medium"
AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f\n"
SIZES = {"vocab_size": 64, "context_length": 512, "n_layer": 2, "d_model": 16, "n_head": 2, "n_kv_head": 1, "head_dim": 8, "d_ff": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"tied": True, "rope_theta": None, "dropout": 0.0, "n_kv_head": 2},
    "llama": {"tied": False, "rope_theta": 10_000.0, "dropout": 0.0},
    "qwen3": {"tied": False, "rope_theta": 10_000.0, "dropout": 0.0},
}


@pytest.fixture
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where it is quicker."""
    monkeypatch.setattr(products, "_chosen", ONEDNN)
    torch.set_float32_matmul_precision(ONEDNN)


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [(AMD, ONEDNN), ("vendor_id\t: AuthenticAMD\nflags\t: avx2\n", MKL), ("vendor_id\t: GenuineIntel\nflags\t: avx512f\n", MKL), ("", MKL)],
)
def test_the_device_picks_by_the_processor(cpuinfo: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _processor(cpuinfo, tmp_path, monkeypatch)
    monkeypatch.setattr(products, "_keeps_all_bits", lambda: True)
    pick_device("cpu").prepare(torch.get_num_threads(), deterministic=False)
    assert (torch.get_float32_matmul_precision(), products._chosen) == (expected, expected)


def test_a_library_that_rounds_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _processor(AMD, tmp_path, monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):  # as AMX does
        products.choose_quick_products()
    assert (torch.get_float32_matmul_precision(), products._chosen) == (MKL, MKL)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointed", [0, 2])
@pytest.mark.parametrize(("length", "attention_by"), [(16, MKL), (512, ONEDNN)])
def test_short_attention_is_by_mkl_forward_and_backward_and_all_else_is_not(
    family: str, checkpointed: int, length: int, attention_by: str, by_onednn: None
) -> None:
    by = _libraries(family, checkpointed, length)
    attention = {name for name in by if "attention" in name}
    assert len(attention) == 2, "forward and backward"
    assert {library for name in attention for library in by[name]} == {attention_by}
    assert {library for name in by if name.startswith(("mm", "addmm")) for library in by[name]} == {ONEDNN}
    assert torch.get_float32_matmul_precision() == ONEDNN


@pytest.mark.parametrize(("documents", "dropout"), [(True, 0.0), (False, 0.1)])
def test_attention_within_documents_and_with_dropout_too(documents: bool, dropout: float, by_onednn: None) -> None:
    """With dropout torch has no kernel for it, and multiplies batches of matrices."""
    by = _libraries("llama", 0, 16, documents, dropout=dropout)
    assert {library for name in by if "attention" in name or name.startswith("bmm") for library in by[name]} == {MKL}
    assert {library for name in by if name.startswith("mm") for library in by[name]} == {ONEDNN}
    assert torch.get_float32_matmul_precision() == ONEDNN


def test_where_mkl_is_quicker_nothing_changes_hands() -> None:
    torch.set_float32_matmul_precision("high")  # as a GPU's runs have it
    assert set.union(*_libraries("gpt2", 0, 16).values()) == {"high"}
    torch.set_float32_matmul_precision(MKL)


def test_without_gradients_too(by_onednn: None) -> None:
    with torch.no_grad():
        by = _libraries("gpt2", 0, 16)
    assert {library for name, seen in by.items() if "attention" in name for library in seen} == {MKL}
    assert torch.get_float32_matmul_precision() == ONEDNN


def test_a_failure_forward_changes_nothing(by_onednn: None) -> None:
    with pytest.raises(ZeroDivisionError):
        products.small_products(lambda: torch.ones(1) * (1 // 0), torch.ones(1))
    assert torch.get_float32_matmul_precision() == ONEDNN


def test_after_a_failure_backward_the_next_pass_sets_it_right(by_onednn: None) -> None:
    """Such as memory that is not there, after which a smaller micro-batch is tried."""
    leaf = torch.ones(1, requires_grad=True)
    result = products.small_products(lambda: Fails.apply(of), of := leaf * 2)
    with pytest.raises(MemoryError):
        result.backward()
    products.small_products(lambda: of * 2, of)
    assert torch.get_float32_matmul_precision() == ONEDNN


def test_a_compiled_block_has_one_library_and_one_code_for_all_lengths(by_onednn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_MKL_BELOW_TOKENS", 24)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter, fullgraph=True))
    trainee = _trainee("gpt2", 0)
    compile_blocks(trainee.model, trainee.spec)
    n_graphs = []
    for length in (20, 24, 48):
        trainee(_tokens(length), _tokens(length)).backward()
        n_graphs.append(counter.frame_count)
    torch._dynamo.reset()
    assert n_graphs == n_graphs[:1] * 3
    assert n_graphs[0] > 0
    assert torch.get_float32_matmul_precision() == ONEDNN


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise MemoryError


def _processor(cpuinfo: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(processor, "_CPUINFO", folder / "cpuinfo")


def _trainee(family: str, checkpointed: int, **others: Any) -> Trainee:
    spec = ModelSpec(family=family, eot_id=0, **{**SIZES, **FAMILIES[family], **others})
    model = build_model(spec, 0)
    checkpoint_blocks(model, spec, checkpointed)
    return Trainee(model, spec)


def _tokens(length: int) -> Tensor:
    return torch.arange(2 * length).view(2, length) % 64


def _libraries(family: str, checkpointed: int, length: int, documents: bool = False, **others: Any) -> dict[str, set[str]]:
    """By the operation's name, whose products there were when it ran, in a pass forward and, with gradients, backward."""
    trainee, tokens = _trainee(family, checkpointed, **others), _tokens(length)
    with Seen() as seen:
        loss = trainee(tokens, tokens, *(document_mask(tokens, 0) if documents else ()))
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
