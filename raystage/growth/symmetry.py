"""Breaking the symmetry of copies: noise that leaves the function alone.

Equal copies get equal gradients and stay equal for ever. Noise on the weights that read copied channels, summing to zero over the copies
of each, changes no output now and every gradient from the next step on (the cancelling form of LEMON's unequal shares, 2310.07999).
"""

import hashlib
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from raystage.growth.axis_map import AxisMap
from raystage.growth.width import block, pieces_of
from raystage.models.axes import READING, Parameter


def seed_of(seed: int, name: str) -> int:
    """A seed that depends on these two alone, so that any rank can draw a tensor's random numbers at any time."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()) >> 1


def add_cancelling_noise(grown: Tensor, parameter: Parameter, maps: Sequence[AxisMap], noise_scale: float, seed: int) -> None:
    """Adds noise in place to a grown matrix that reads copies; other tensors stay as they are.

    Among the copies of an output channel the first stays as it is and every other one gets noise of its own: what the
    second and later copies of an input get more, its first copy gets less. `noise_scale`: its standard deviation,
    relative to the root mean square of the matrix.
    """
    reading = next((dim for dim, axis in enumerate(parameter.axes) if axis.role in READING), None)
    if reading is None or noise_scale == 0:
        return
    std = noise_scale * float(torch.linalg.vector_norm(grown)) / math.sqrt(grown.numel())
    generator = torch.Generator().manual_seed(seed)
    options = []
    for dim, m in enumerate(maps):
        pieces = pieces_of(m, None)
        later = [piece for piece in pieces if piece.copy > 0]
        options.append(later if dim == reading or later else pieces)
    for pieces in itertools.product(*options):
        lengths, starts = [p.length for p in pieces], [p.new for p in pieces]
        noise = torch.randn(lengths, generator=generator, dtype=grown.dtype).to(grown.device)
        block(grown, starts, lengths).add_(noise, alpha=std)
        first = pieces[reading].first
        if first is not None:
            starts[reading] = first
            block(grown, starts, lengths).sub_(noise, alpha=std)
