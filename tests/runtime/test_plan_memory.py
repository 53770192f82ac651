"""What `raystage plan` says of memory, and where it says that it does not know."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from raystage.runtime.plan_table import plan_table
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
        (["runtime.device=xla"], "memory is not foretold for xla devices"),
        (["training.strategy=fsdp"], "memory and --measure are of one that holds all of it"),
        (["data.tokenizer={kind: hub, name: gpt2}"], "4,096 entries are assumed, the tokenizer is not looked into"),
    ],
)
def test_it_is_said_what_was_counted(tmp_path: Path, overrides: list[str], words: str) -> None:
    assert words in _printed(tmp_path, [*MEASURED, *overrides])


def test_a_vocabulary_that_is_given_is_not_assumed(tmp_path: Path) -> None:
    given = ["data.tokenizer={kind: hub, name: gpt2}", "model.vocab_size=50304"]
    assert "assumed" not in _printed(tmp_path, [*MEASURED, *given])


def _printed(folder: Path, overrides: list[str]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(plan_table(configure(folder, overrides)))
    return " ".join(console.export_text().split())  # however the lines are broken
