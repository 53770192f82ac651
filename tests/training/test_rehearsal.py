"""The rehearsal: nothing of it is left behind, memory that runs out halves the micro-batch on every rank, code is compiled once."""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from raystage.config import Config
from raystage.config.schema import Optimizer
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.models.spec import ModelSpec
from raystage.training import rehearsal
from raystage.training.errors import RehearsalError
from raystage.training.job import Job
from raystage.training.policy import plan_of
from raystage.training.rehearsal import Rehearsal, Timing, rehearse, seconds_per_token
from raystage.training.state import assemble
from tests.gang import gang_of
from tests.training.made_run import configure, corpus_of, losses, train_here

SPEC = ModelSpec("gpt2", 64, 32, 1, 16, 2, 2, 8, 64, tied=True, rope_theta=None, dropout=0.1, eot_id=0)
DEEPER = dataclasses.replace(SPEC, n_layer=2)
PAIRS = [(SPEC, 16), (SPEC, 32), (DEEPER, 32)]
CPU = pick_device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rehearsal")


@pytest.fixture
def small(folder: Path) -> Config:
    return configure(folder)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_run_after_a_rehearsal_is_the_same_run_bitwise(folder: Path, dropout: float) -> None:
    settings = ["training.duration=30 steps", f"model.dropout={dropout}"]
    alone = train_here(configure(folder, [f"name=alone-{dropout}", *settings]))
    config = configure(folder, [f"name=after-{dropout}", *settings])
    found = rehearse(config, stages_of(config), CPU, Ranks(), 128)
    assert len(found.seconds) == 4
    assert losses(train_here(config)) == losses(alone)


def test_random_generators_stand_where_they_stood(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = rehearsal.forward_backward

    def with_draws(*args: Any) -> torch.Tensor:
        np.random.rand(), random.random()
        return honest(*args)

    monkeypatch.setattr(rehearsal, "forward_backward", with_draws)
    before = generator_states()
    rehearse(small, PAIRS, CPU, Ranks(), 128)
    assert generator_states() == before


def test_each_pair_is_timed_with_the_micro_batch_that_training_takes(small: Config) -> None:
    signs: list[None] = []
    found = rehearse(small, PAIRS, CPU, Ranks(), 100, lambda: signs.append(None))
    assert len(signs) >= 2 * len(PAIRS), "every pass is a sign of life: compiled ones take minutes"
    assert [(t.spec, t.seq_len_tokens) for t in found.timings] == PAIRS
    assert [t.tokens for t in found.timings] == [96, 96, 96]
    assert found.micro_batch_tokens == 100
    assert min(*found.seconds, found.update_s) > 0
    assert (found.compile_s, found.peak_bytes) == (0.0, None)


def test_the_step_of_the_largest_model_has_its_optimizer_state_in_memory(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    honest = rehearsal.forward_backward

    def watched(machinery: Any, batch: Any, *rest: Any) -> torch.Tensor:
        seen.append((machinery.spec.n_layer, len(batch.inputs_BL), len(machinery.optimizer.state) > 0))
        return honest(machinery, batch, *rest)

    monkeypatch.setattr(rehearsal, "forward_backward", watched)
    rehearse(small, PAIRS, CPU, Ranks(), 128)
    assert seen == [(2, 1, False), (2, 4, True), (1, 1, False), (1, 4, False), (1, 1, False), (1, 8, False)]


def out_of_memory_cuda() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def out_of_memory_cpu() -> None:
    torch.empty(1 << 60)


@pytest.mark.parametrize("fail", [out_of_memory_cuda, out_of_memory_cpu])
def test_memory_that_runs_out_halves_the_micro_batch(small: Config, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], None]) -> None:
    monkeypatch.setattr(rehearsal, "forward_backward", limited(70, fail))
    found = rehearse(small, PAIRS, CPU, Ranks(), 256)
    assert found.micro_batch_tokens == 64
    assert [t.tokens for t in found.timings] == [64, 64, 64]


def test_memory_that_runs_out_in_the_update_halves_too(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, calls = rehearsal.clip_and_update, []

    def update(machinery: Any, settings: Optimizer) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 1:
            # as AdamW leaves it when memory runs out between its two moments
            machinery.optimizer.state[next(machinery.model.parameters())]["step"] = torch.tensor(0.0)
            out_of_memory_cuda()
        return honest(machinery, settings)

    monkeypatch.setattr(rehearsal, "clip_and_update", update)
    assert rehearse(small, PAIRS, CPU, Ranks(), 256).micro_batch_tokens == 128


def test_a_stage_that_fits_no_sequence_is_refused_with_its_size(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "forward_backward", limited(31, out_of_memory_cuda))
    with pytest.raises(RehearsalError, match=r"2 layers x 16 channels .* one sequence of 32 tokens; lower model\.n_layer") as caught:
        rehearse(small, PAIRS, CPU, Ranks(), 256)
    assert "\n" not in str(caught.value)


def test_a_model_that_does_not_fit_at_all_is_refused(small: Config) -> None:
    endless = dataclasses.replace(SPEC, vocab_size=1 << 50)
    with pytest.raises(RehearsalError, match="out of memory"):
        rehearse(small, [(endless, 16)], CPU, Ranks(), 256)


def test_other_errors_are_not_taken_for_a_lack_of_memory(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(rehearsal, "forward_backward", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        rehearse(small, PAIRS, CPU, Ranks(), 256)


def test_ranks_agree_on_the_smallest_micro_batch_and_fail_together(small: Config, tmp_path: Path) -> None:
    with gang_of(2, tmp_path) as gang:
        gang(_rank, small)


def _rank(ranks: Ranks, config: Config) -> None:
    rank, honest = ranks.rank, rehearsal.forward_backward
    if rank == 1:
        rehearsal.forward_backward = limited(70, out_of_memory_cuda)
    found = rehearse(config, PAIRS, CPU, ranks, 256)
    assert found.micro_batch_tokens == 64
    assert [t.tokens for t in found.timings] == [256, 256, 256] if rank == 0 else [64, 64, 64]
    rehearsal.forward_backward = limited(31, out_of_memory_cuda) if rank == 0 else honest
    with pytest.raises(RehearsalError, match="another worker" if rank == 1 else "one sequence of 32 tokens"):
        rehearse(config, PAIRS, CPU, ranks, 256)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """torch.compile with a backend that needs no C++ compiler; the list grows by one with every graph compiled."""
    graphs: list[int] = []

    def counting(graph: Any, inputs: Any, **options: Any) -> Any:
        graphs.append(1)
        return aot_eager(graph, inputs, **options)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counting))
    yield graphs
    torch._dynamo.reset()


@pytest.mark.parametrize("across_documents", ["true", "false"])
def test_a_rehearsed_run_compiles_nothing_more(folder: Path, compiled: list[int], across_documents: str) -> None:
    """Two lengths, a growth from one layer to two, and micro-batches of 5, 5, 5 and 1 sequences."""
    config = configure(
        folder,
        [
            f"name=compiled-{across_documents}",
            f"data.attend_across_documents={across_documents}",
            "training.compile=true",
            "training.duration=25 steps",
            "training.micro_batch_tokens=80",
            "pacing.depths=[1, 2]",
            "pacing.widths=null",
            "pacing.at=[0.2, 0.4]",
        ],
    )
    CPU.prepare(threads=1, deterministic=False)
    found = rehearse(config, stages_of(config), CPU, Ranks(), config.training.micro_batch)
    assert compiled
    assert found.compile_s > 0
    before = len(compiled)
    records = train_here(config)
    assert {(r["seq_len_tokens"], r["n_layer"]) for r in records.train} == {(16, 1), (32, 1), (32, 2)}
    assert len(compiled) == before


def test_more_sizes_than_dynamo_keeps_stay_compiled(folder: Path, compiled: list[int]) -> None:
    """Two widths are four codes. As many sequences as tokens in each must not become a rule for later shapes."""
    config = configure(folder, ["training.compile=true"])
    specs = [dataclasses.replace(SPEC, d_model=8 * n, n_head=n, n_kv_head=n, d_ff=32 * n) for n in (1, 2)]
    with torch._dynamo.config.patch(recompile_limit=2):
        rehearse(config, [(spec, 16) for spec in specs], CPU, Ranks(), 16 * 16)
        before = len(compiled)
        assert before >= 4
        for spec in specs:
            wrapped = assemble(spec, config, CPU, Ranks()).wrapped
            for shape in ((3, 32), (16, 16), (1, 8), (32, 16)):
                wrapped(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)).backward()
    assert len(compiled) == before


def test_seconds_per_token_shares_passes_over_ranks_and_updates_over_the_batch() -> None:
    timings = (Timing(SPEC, 16, 1000, 64, 0.5), Timing(DEEPER, 32, 4000, 128, 2.0))
    found = Rehearsal(128, timings, update_s=0.8, compile_s=0.0, peak_bytes=None)
    assert found.seconds == (0.5, 2.0)
    assert seconds_per_token(found, batch_tokens=1000, world_size=2) == pytest.approx(
        (0.5 / 64 / 2 + 0.8 / 4 / 1000, 2.0 / 128 / 2 + 0.8 / 1000)
    )


def stages_of(config: Config) -> list[tuple[ModelSpec, int]]:
    job = Job(config, corpus_of(config), Path(config.storage), 1)
    return [(job.spec(shape), shape.seq_len_tokens) for shape in plan_of(config).shapes()]


def limited(most_tokens: int, fail: Callable[[], None]) -> Callable[..., torch.Tensor]:
    honest = rehearsal.forward_backward

    def forward_backward(machinery: Any, batch: Any, *rest: Any) -> torch.Tensor:
        loss = honest(machinery, batch, *rest)
        if batch.inputs_BL.numel() > most_tokens:
            fail()
        return loss

    return forward_backward


def generator_states() -> tuple[Any, ...]:
    numpy_state: Any = np.random.get_state()
    return torch.get_rng_state().tolist(), (numpy_state[1].tolist(), *numpy_state[2:]), random.getstate()
