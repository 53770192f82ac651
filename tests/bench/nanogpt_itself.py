"""A copy of nanoGPT as it is (github.com/karpathy/nanoGPT): its train.py runs in this process, and pauses behind its steps."""

import contextlib
import os
import pickle
import runpy
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests.bench.arm import Pause
from tests.bench.peer_size import PeerSize

_NEVER = 10**9


def train(source: Path, size: PeerSize, tokens: Path, compile_: bool, block_steps: int, pause: Pause) -> None:
    """For ever; the loss is read every 10 steps. `source`: the folder of its train.py."""
    settings = {
        "dataset": "bench",
        "device": size.device,
        "dtype": "bfloat16" if size.precision == "bf16" else "float32",
        "compile": compile_,
        "batch_size": size.rows,
        "gradient_accumulation_steps": 1,
        "block_size": size.length,
        "bias": True,
        "n_layer": size.n_layer,
        "n_head": size.n_head,
        "n_embd": size.d_model,
        "learning_rate": 6e-4,
        "warmup_iters": 100,
        "max_iters": _NEVER,
        "eval_interval": _NEVER,
        "eval_iters": 1,
        "log_interval": 10,
    }
    with tempfile.TemporaryDirectory() as name, _as_it_expects(source, Path(name), size, tokens), _pausing(block_steps, pause):
        sys.argv = ["train.py", *(f"--{key}={value}" for key, value in settings.items())]
        runpy.run_path("train.py", run_name="__main__")


@contextlib.contextmanager
def _as_it_expects(source: Path, folder: Path, size: PeerSize, tokens: Path) -> Iterator[None]:
    """Its files and its data below the working folder, its model importable, its words unsaid."""
    for name in ("train.py", "model.py", "configurator.py"):
        shutil.copy(source / name, folder)
    data = folder / "data" / "bench"
    data.mkdir(parents=True)
    for split in ("train", "val"):
        (data / f"{split}.bin").symlink_to(tokens.resolve())
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": size.vocab_size}))
    importable = mock.patch.object(sys, "path", [str(folder), *sys.path])
    with contextlib.chdir(folder), importable, open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


@contextlib.contextmanager
def _pausing(block_steps: int, pause: Pause) -> Iterator[None]:
    """It forgets its gradients at the end of each step."""
    forget, n_steps = torch.optim.Optimizer.zero_grad, 0

    def counted(optimizer: torch.optim.Optimizer, *args: Any, **named: Any) -> None:
        nonlocal n_steps
        forget(optimizer, *args, **named)
        n_steps += 1
        if n_steps % block_steps == 0:
            pause()

    with mock.patch.object(torch.optim.Optimizer, "zero_grad", counted):
        yield
