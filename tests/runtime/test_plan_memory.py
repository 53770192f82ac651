"""What `raystage plan` says of memory, and where it says that it does not know."""

import io
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console

from raystage.config import ConfigError
from raystage.devices.cpu import Cpu
from raystage.runtime.plan_table import plan_table
from raystage.training.errors import RehearsalError
from tests.training.made_run import configure

MEASURED = ["pacing.lengths=null", "pacing.depths=null", "pacing.widths=null", "pacing.at=null", "pacing.rule=constant"]


def test_every_stage_has_its_memory_and_larger_ones_more(tmp_path: Path) -> None:
    cells = next(column for column in plan_table(configure(tmp_path)).columns if column.header == "memory").cells
    megabytes = [int(str(cell).removesuffix(" MB")) for cell in cells]
    assert len(megabytes) == 4
    assert 0 < megabytes[0] < megabytes[-1]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "memory: the most of a worker in a step, with micro-batches of 128 tokens"),
        (["runtime.device=auto"], "counted with the kernels of a CPU"),
        (["training.compile=true"], "compiled code takes less"),
        (["runtime.device=xla"], "memory is not predicted for xla devices"),
        (["training.strategy=fsdp"], "--measure is of one that holds all of it"),
        (
            ["training.micro_batch_tokens=null", "runtime.memory_gib=2"],
            "with micro-batches of 256 tokens; chosen for 2 GiB a worker, runtime.memory_gib",
        ),
        (["training.activation_checkpointing=full"], "blocks checkpointed, stage by stage: 2"),
        (["training.activation_checkpointing=auto", "runtime.memory_gib=2"], "blocks checkpointed, stage by stage: 0"),
        (["training.micro_batch_tokens=null"], "GiB a worker, what this machine has free, less a tenth"),
        (
            ["training.micro_batch_tokens=null", "runtime.device=cuda"],
            "memory is that of the workers' devices; runtime.memory_gib",
        ),
        (["data.tokenizer={kind: hub, name: gpt2}"], "4,096 entries are assumed, the tokenizer is not looked into"),
    ],
)
def test_it_is_said_what_was_counted(tmp_path: Path, overrides: list[str], words: str) -> None:
    assert words in _printed(tmp_path, [*MEASURED, *overrides])


def test_it_is_said_where_changes_do_not_fit_into_the_duration(tmp_path: Path) -> None:
    by_slope = ["pacing.rule=slope", "pacing.at=null", "pacing.min_dwell_tokens=null"]
    assert "some may never come; lengthen training.duration" in _printed(tmp_path, by_slope)
    assert "never come" not in _printed(tmp_path, [*by_slope, "training.duration=9000 steps"])


def test_a_memory_that_one_sequence_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"runtime.memory_gib=1e-05: the last stage takes .* with 32 tokens at a time; raise it"):
        plan_table(configure(tmp_path, ["training.micro_batch_tokens=null", "runtime.memory_gib=0.00001"]))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("runtime.device=cuda: no such device"), "or plan without --measure"),
        (RehearsalError("too large"), "--measure: too large"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: ValueError, words: str) -> None:
    where = "rehearse" if isinstance(error, RehearsalError) else "pick_device"
    monkeypatch.setattr(f"raystage.runtime.plan_table.{where}", mock.Mock(side_effect=error))
    with pytest.raises(ConfigError, match=words):
        plan_table(configure(tmp_path, MEASURED), measure=True)


def test_of_sharded_workers_the_memory_here_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cpu, "free_bytes", lambda device: 1000)
    sharded = ["training.micro_batch_tokens=null", "training.strategy=fsdp", "runtime.workers=2"]
    with pytest.raises(ConfigError, match=r"a worker has .* GiB free.*; runtime.memory_gib says how much the workers have"):
        plan_table(configure(tmp_path, sharded))


def test_a_vocabulary_that_is_given_is_not_assumed(tmp_path: Path) -> None:
    given = ["data.tokenizer={kind: hub, name: gpt2}", "model.vocab_size=50304"]
    assert "assumed" not in _printed(tmp_path, [*MEASURED, *given])


def _printed(folder: Path, overrides: list[str]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(plan_table(configure(folder, overrides)))
    return " ".join(console.export_text().split())  # however the lines are broken
