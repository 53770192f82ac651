"""Tokens a second of raystage's loop, nanoGPT's and transformers' Trainer: same sizes, data, batch, precision, threads.

Each with compile and without, its faster way against our faster one. Loops run whole (data, logging, records), each in a process of its
own, and take turns of some steps. `python -m tests.bench.bench_peers`: float32 on the CPU, the 124M model without compile; `--all`: then
with it too, like against like (15 minutes more); `--device cuda`: bf16 on a GPU, with neither Ray nor MLflow.
"""

import functools
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raystage.config import Config
from raystage.data.corpus import TRAIN
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.models.count import flops_per_token, mfu
from raystage.runtime.worker import run_rank
from raystage.training.policy import plan_of
from raystage.training.stage_model import spec_of
from tests.bench import nanogpt_loop
from tests.bench.arm import Arm, Pause
from tests.bench.endless_run import endless
from tests.bench.peer_size import PeerSize, gpt2, on_gpu, small
from tests.bench.result import Result
from tests.training.made_run import assign

N_THREADS = os.cpu_count() or 1
TURNS = 7
Way = tuple[str, bool]  # a loop's name, and whether it is compiled


def run_small() -> Iterator[Result]:
    """On the CPU, the 14M model: two lines for each length."""
    for length in (256, 1024):
        yield from _compare(small(length), (False, True), 1)


def run(everything: bool = False) -> Iterator[Result]:
    """The 124M model too."""
    yield from run_small()
    for compiled in (False, True)[: 1 + everything]:
        for length in (256, 1024):  # six loops of this model at once are 30 GB
            yield from _compare(gpt2(length), (compiled,), 1)


def run_on_gpu() -> Iterator[Result]:
    """Two lines for each size."""
    for size in on_gpu():
        yield from _compare(size, (False, True), 10)


def _compare(size: PeerSize, compiled: Sequence[bool], block_steps: int) -> Iterator[Result]:
    ways = [(name, compile_) for name in _LOOPS for compile_ in compiled]
    with tempfile.TemporaryDirectory() as folder:
        seconds = (_in_turns if size.device == "cpu" else _one_by_one)(size, Path(folder), ways, block_steps)
        rates = {_called(way): block_steps * size.tokens_a_step / statistics.median(seconds[way]) for way in ways}
        said = "tokens/s: " + "; ".join(f"{name} {rate:,.0f}{_mfu_words(size, Path(folder), rate)}" for name, rate in rates.items())
    fastest = {name: min((way for way in ways if way[0] == name), key=lambda way: statistics.median(seconds[way])) for name in _LOOPS}
    ours, name = seconds[fastest["raystage"]], f"step, {size.name}{', compiled' * all(compiled)}"
    for peer, target in (("nanoGPT's loop", ">= 1.10"), ("Trainer", ">= 1.25")):
        ratios = tuple(theirs / mine for theirs, mine in zip(seconds[fastest[peer]], ours, strict=True))
        yield Result(name, peer, "x", ratios, target, said if peer == "Trainer" else "")


def _in_turns(size: PeerSize, folder: Path, ways: list[Way], block_steps: int) -> dict[Way, list[float]]:
    """Seconds of the blocks of each: others use a CPU too, and slow all of them alike."""
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    with ExitStack() as stack:
        arms = {way: stack.enter_context(_arm(size, folder, *way, block_steps)) for way in ways}
        for arm in (*arms.values(), *arms.values()):
            arm.block()  # imports, memory, compiling
        for i in range(TURNS):
            for way in ways[i % len(ways) :] + ways[: i % len(ways)]:
                seconds[way].append(arms[way].block())
    return seconds


def _one_by_one(size: PeerSize, folder: Path, ways: list[Way], block_steps: int) -> dict[Way, list[float]]:
    """The same where memory holds one loop, and nobody else is at work: a GPU."""
    seconds = {}
    for way in ways:
        with _arm(size, folder, *way, block_steps) as arm:
            for _ in range(2):
                arm.block()  # imports, memory, compiling
            seconds[way] = [arm.block() for _ in range(TURNS)]
    return seconds


def _called(way: Way) -> str:
    name, compile_ = way
    return f"{name}{', compiled' * compile_}"


def _mfu_words(size: PeerSize, folder: Path, tokens_per_s: float) -> str:
    if size.device == "cpu":
        return ""  # whose peak is not known
    config = _config(size, folder, False, 1)
    spec = spec_of(config, plan_of(config).shapes()[-1], size.vocab_size, eot_id=0)
    share = mfu(tokens_per_s * flops_per_token(spec, size.length), torch.cuda.get_device_name())
    return "" if share is None else f" (MFU {share:.1%})"


@contextmanager
def _arm(size: PeerSize, folder: Path, name: str, compile_: bool, block_steps: int) -> Iterator[Arm]:
    train = functools.partial(_LOOPS[name], size, folder / name, compile_, block_steps)
    arm = Arm(_called((name, compile_)), train, N_THREADS)
    try:
        yield arm
    finally:
        arm.end()


def _config(size: PeerSize, folder: Path, compile_: bool, block_steps: int) -> Config:
    folder.mkdir(parents=True, exist_ok=True)
    return endless(folder, f"bench-{compile_}", size, block_steps, f"training.compile={str(compile_).lower()}")


def _raystage(size: PeerSize, folder: Path, compile_: bool, block_steps: int, pause: Pause) -> None:
    """All of the loop: rows, batches, the step, losses, records on disk."""
    seen = [0]

    def asked(step: int, position: int) -> None:
        if step >= seen[0] + block_steps:
            seen[0] = step
            pause()

    run_rank(assign(_config(size, folder, compile_, block_steps)), pick_device(size.device), Ranks(), threads=N_THREADS, asked=asked)


def _nanogpt(size: PeerSize, folder: Path, compile_: bool, block_steps: int, pause: Pause) -> None:
    nanogpt_loop.train(size, _tokens(size, folder), compile_, block_steps, pause)


def _trainer(size: PeerSize, folder: Path, compile_: bool, block_steps: int, pause: Pause) -> None:
    """As its users would: GPT-2 of the library as it is, data in memory, a loss logged every 10 steps."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    data = np.memmap(_tokens(size, folder), dtype=np.uint16, mode="r")
    rows = torch.from_numpy(data[: len(data) // size.length * size.length].astype(np.int64)).view(-1, size.length)

    class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, i: int) -> dict[str, Tensor]:
            row = rows[i % len(rows)]
            return {"input_ids": row, "labels": row}

    class Pausing(TrainerCallback):
        def on_step_end(self, args: object, state: object, control: object, **others: object) -> None:
            if state.global_step % block_steps == 0:  # type: ignore[attr-defined]
                pause()

    config = GPT2Config(
        vocab_size=size.vocab_size, n_positions=size.length, n_embd=size.d_model, n_layer=size.n_layer, n_head=size.n_head,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), use_cpu=size.device == "cpu", bf16=size.precision == "bf16",
        max_steps=1_000_000, per_device_train_batch_size=size.rows,
        learning_rate=6e-4, weight_decay=0.1, max_grad_norm=1.0, optim="adamw_torch_fused", logging_steps=10,
        save_strategy="no", report_to=[], disable_tqdm=True, torch_compile=compile_,
    )  # fmt: skip
    Trainer(model=GPT2LMHeadModel(config), args=arguments, train_dataset=Rows(), callbacks=[Pausing()]).train()


def _tokens(size: PeerSize, folder: Path) -> Path:
    """The same file that raystage reads; its tokens are uint16."""
    return assign(_config(size, folder, False, 1)).corpus_folder / TRAIN


_LOOPS: dict[str, Callable[[PeerSize, Path, bool, int, Pause], None]] = {
    "raystage": _raystage,
    "nanoGPT's loop": _nanogpt,
    "Trainer": _trainer,
}


def main() -> None:
    """Prints the table."""
    on_cuda = any("cuda" in word for word in sys.argv)
    where = torch.cuda.get_device_name() if on_cuda else f"{pick_device('cpu').name}, {N_THREADS} threads, float32"
    print(f"{where}, torch {torch.__version__}; medians of {TURNS} turns, lowest to highest")
    for result in run_on_gpu() if on_cuda else run("--all" in sys.argv):
        print(result.line(), flush=True)


if __name__ == "__main__":
    main()
