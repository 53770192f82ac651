"""The floor of a training step: the matrix products of GPT-2's forward and backward pass, and nothing else."""

import torch
from torch import Tensor

from raystage.devices.device import pick_device
from tests.bench.arm import Pause
from tests.bench.peer_size import PeerSize

Operands = tuple[Tensor, Tensor, Tensor]


def train(size: PeerSize, n_threads: int, block_steps: int, pause: Pause) -> None:
    """Products of the shapes of each step for ever, in the libraries that raystage chooses; weights lie where they lay a layer before."""
    pick_device(size.device).prepare(n_threads, deterministic=False)
    products = [(operands, times) for shape, times in shapes(size) for operands in _three(shape, size)]
    while True:
        for _ in range(block_steps):
            for (left, right, out), times in products:
                for _ in range(times):
                    torch.matmul(left, right, out=out)
        pause()


def shapes(size: PeerSize) -> list[tuple[tuple[int, ...], int]]:
    """([batch,] m, k, n) of each forward product and how many a step has. Of attention's the half that causal attention looks at."""
    tokens, d = size.tokens_a_step, size.d_model
    heads, half = size.rows * size.n_head, size.length // 2
    linear = [((tokens, d, width), size.n_layer) for width in (3 * d, d, 4 * d)]
    return [
        *linear,
        ((tokens, 4 * d, d), size.n_layer),
        ((tokens, d, size.vocab_size), 1),
        ((heads, size.length, d // size.n_head, half), size.n_layer),
        ((heads, size.length, half, d // size.n_head), size.n_layer),
    ]


def _three(shape: tuple[int, ...], size: PeerSize) -> list[Operands]:
    """Forward, and by both factors backward: as much work each."""
    *batch, m, k, n = shape
    return [_operands(tuple(batch), each, size) for each in ((m, k, n), (m, n, k), (k, m, n))]


def _operands(batch: tuple[int, ...], shape: tuple[int, int, int], size: PeerSize) -> Operands:
    m, k, n = shape
    dtype = torch.bfloat16 if size.precision == "bf16" else torch.float32
    left, right, out = (torch.rand((*batch, *sides), dtype=dtype, device=size.device) for sides in ((m, k), (k, n), (m, n)))
    return left, right, out
