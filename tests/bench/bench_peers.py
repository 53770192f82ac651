"""Tokens a second of raystage's loop, nanoGPT's and transformers' Trainer: same sizes, data, batch, precision, threads.

Each with compile and without, its faster way against our faster one. Loops run whole (data, logging, records), each in a process of its
own, and take turns of some steps. `python -m tests.bench.bench_peers`: float32 on the CPU, the 124M model without compile; `--all`: then
with it too, like against like (15 minutes more); `--device cuda`: bf16 on a GPU, with neither Ray nor MLflow; `--nanogpt FOLDER`: a copy of
nanoGPT itself in the place of the loop of its shape. Writes bench_peers.json into the working folder.
"""

import argparse
import functools
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raystage.config import Config
from raystage.data.corpus import TRAIN
from raystage.devices.cores import n_cores
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.models.count import flops_per_token, mfu
from raystage.runtime.worker import run_rank
from raystage.training.policy import plan_of
from raystage.training.stage_model import spec_of
from tests.bench import nanogpt_itself, nanogpt_loop, products
from tests.bench.arm import Arm, Pause
from tests.bench.endless_run import endless
from tests.bench.peer_size import PeerSize, gpt2, on_gpu, small
from tests.bench.result import Result
from tests.bench.table import Table
from tests.training.made_run import assign

N_THREADS = n_cores()
TURNS = 7
OURS, TRAINER, ALIKE, FLOOR = "raystage", "Trainer", "nanoGPT's loop, settings alike", "its products alone (the floor)"
GATE, TARGET, TARGETS = ">= 1.00", ">= 1.10", {TRAINER: ">= 1.25"}
Way = tuple[str, bool]  # a loop's name, and whether it is compiled
Loops = Mapping[str, Callable[[PeerSize, Path, bool, int, Pause], None]]
MakeArm = Callable[[Way], AbstractContextManager[Arm]]


def run_small(nanogpt: Path | None = None) -> Iterator[Result]:
    """On the CPU, the 14M model: two lines for each length, its floor, and what is left of the gain where nanoGPT's process has raystage's
    settings too. `nanogpt`: a copy of it."""
    for length in (256, 1024):
        yield from _compare(small(length), (False, True), 1, loops_with(nanogpt))
    yield from _compare(small(256), (False, True), 1, {OURS: _raystage, ALIKE: _nanogpt_alike})


def run_short(nanogpt: Path | None = None) -> Iterator[Result]:
    """And a short look at the 124M model, not compiled."""
    yield from run_small(nanogpt)
    for length in (256, 1024):
        yield from _compare(gpt2(length), (False,), 1, loops_with(nanogpt), turns=3)


def run(nanogpt: Path | None = None, everything: bool = False) -> Iterator[Result]:
    """The 124M model at length."""
    yield from run_small(nanogpt)
    for compiled in (False, True)[: 1 + everything]:
        for length in (256, 1024):  # six loops of this model at once are 30 GB
            yield from _compare(gpt2(length), (compiled,), 1, loops_with(nanogpt))


def run_on_gpu(nanogpt: Path | None = None) -> Iterator[Result]:
    """Two lines for each size."""
    for size in on_gpu():
        yield from _compare(size, (False, True), 10, loops_with(nanogpt))


def _compare(size: PeerSize, compiled: Sequence[bool], block_steps: int, loops: Loops, turns: int = TURNS) -> Iterator[Result]:
    ways = [*((name, compile_) for name in loops for compile_ in compiled), (FLOOR, False)]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        make = functools.partial(_arm, size, Path(folder), {**loops, FLOOR: _products}, block_steps)
        seconds = _in_turns(ways, make, stack, turns) if size.device == "cpu" else _one_by_one(ways, make)
        rates = {way: [block_steps * size.tokens_a_step / each for each in seconds[way]] for way in ways}
        shares = {way: [_mfu(size, Path(folder), rate) for rate in rates[way]] for way in ways}
    said = "tokens/s: " + "; ".join(f"{_called(way)} {statistics.median(rates[way]):,.0f}" for way in ways)
    fastest = {name: min((way for way in ways if way[0] == name), key=lambda way: statistics.median(seconds[way])) for name in loops}
    ours, name = seconds[fastest[OURS]], f"step, {size.name}{', compiled' * all(compiled)}"
    *_before, last = loops
    for peer in (peer for peer in loops if peer != OURS):
        ratios = tuple(theirs / mine for theirs, mine in zip(seconds[fastest[peer]], ours, strict=True))
        yield Result(name, peer, "x", ratios, TARGETS.get(peer, TARGET), said if peer == last else "", "" if peer == ALIKE else GATE)
    yield Result(name, FLOOR, "x", tuple(mine / least for mine, least in zip(ours, seconds[FLOOR, False], strict=True)), "", "")
    if known := [share for share in shares[fastest[OURS]] if share is not None]:
        yield Result(f"MFU, {size.name}", "the GPU's peak", "", tuple(known), ">= 0.55", "")


def _in_turns(ways: list[Way], make: MakeArm, stack: ExitStack, turns: int) -> dict[Way, list[float]]:
    """Seconds of the blocks of each: others use a CPU too, and slow all of them alike."""
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    arms = {way: stack.enter_context(make(way)) for way in ways}
    for arm in (*arms.values(), *arms.values()):
        arm.block()  # imports, memory, compiling
    for i in range(turns):
        for way in ways[i % len(ways) :] + ways[: i % len(ways)]:
            seconds[way].append(arms[way].block())
    return seconds


def _one_by_one(ways: list[Way], make: MakeArm) -> dict[Way, list[float]]:
    """The same where memory holds one loop, and nobody else is at work, so that blocks of two loops need not be neighbours: a GPU."""
    seconds = {}
    for way in ways:
        with make(way) as arm:
            for _ in range(2):
                arm.block()  # imports, memory, compiling
            seconds[way] = [arm.block() for _ in range(TURNS)]
    return seconds


def _called(way: Way) -> str:
    name, compile_ = way
    return f"{name}{', compiled' * compile_}"


def _mfu(size: PeerSize, folder: Path, tokens_per_s: float) -> float | None:
    """None of a CPU, whose peak is not known."""
    if size.device == "cpu":
        return None
    config = _config(size, folder, False, 1)
    spec = spec_of(config, plan_of(config).shapes()[-1], size.vocab_size, eot_id=0)
    return mfu(tokens_per_s * flops_per_token(spec, size.length), torch.cuda.get_device_name())


@contextmanager
def _arm(size: PeerSize, folder: Path, loops: Loops, block_steps: int, way: Way) -> Iterator[Arm]:
    name, compile_ = way
    arm = Arm(_called(way), functools.partial(loops[name], size, folder / name, compile_, block_steps), N_THREADS)
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


def _products(size: PeerSize, folder: Path, compile_: bool, block_steps: int, pause: Pause) -> None:
    products.train(size, N_THREADS, block_steps, pause)


def _nanogpt_alike(size: PeerSize, folder: Path, compile_: bool, block_steps: int, pause: Pause) -> None:
    """With the library for products and the allocator that raystage chooses for its process."""
    pick_device(size.device).prepare(N_THREADS, deterministic=False)
    _nanogpt(size, folder, compile_, block_steps, pause)


def _nanogpt_itself(source: Path, size: PeerSize, folder: Path, compile_: bool, block_steps: int, pause: Pause) -> None:
    nanogpt_itself.train(source, size, _tokens(size, folder), compile_, block_steps, pause)


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


def loops_with(nanogpt: Path | None) -> Loops:
    """By name: ours, nanoGPT's and the Trainer's."""
    theirs = {"nanoGPT's loop": _nanogpt} if nanogpt is None else {"nanoGPT": functools.partial(_nanogpt_itself, nanogpt)}
    return {OURS: _raystage, **theirs, TRAINER: _trainer}


def arguments() -> argparse.ArgumentParser:
    """Of the command lines that time peers."""

    def copy_of_nanogpt(name: str) -> Path:
        if not (Path(name) / "train.py").is_file():
            raise argparse.ArgumentTypeError(f"{name}: no train.py there; it takes the folder of a copy of nanoGPT")
        return Path(name).resolve()

    def device(name: str) -> str:
        if name == "cuda" and not torch.cuda.is_available():
            raise argparse.ArgumentTypeError("cuda: torch sees no GPU here")
        return name

    parser = argparse.ArgumentParser()
    parser.add_argument("--device", type=device, choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--nanogpt", type=copy_of_nanogpt, metavar="FOLDER", help="a copy of nanoGPT, timed in the place of a loop of its shape"
    )
    return parser


def main() -> int:
    """Prints the table."""
    parser = arguments()
    parser.add_argument("--all", action="store_true", help="the 124M model compiled too")
    said = parser.parse_args()
    table = Table(Path("bench_peers.json"), said.device == "cuda")
    for result in run_on_gpu(said.nanogpt) if said.device == "cuda" else run(said.nanogpt, said.all):
        table.add(result)
    return table.end()


if __name__ == "__main__":
    sys.exit(main())
