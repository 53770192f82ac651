"""A model and a batch that every arm of a bench trains, and where."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class PeerSize:
    """GPT-2 with `rows` sequences of `length` tokens a step."""

    name: str
    vocab_size: int
    n_layer: int
    n_head: int
    d_model: int
    length: int
    rows: int
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bf16"] = "float32"

    @property
    def tokens_a_step(self) -> int:
        return self.rows * self.length


def small(length: int) -> PeerSize:
    """14M parameters, 3M of them embeddings; 2,048 tokens a step."""
    return PeerSize(f"14M, {length} tokens", 8192, 6, 6, 384, length, 2048 // length)


def gpt2(length: int) -> PeerSize:
    """GPT-2 small, 124M parameters, its vocabulary padded to a multiple of 64; 1,024 tokens a step."""
    return PeerSize(f"124M, {length} tokens", 50304, 12, 12, 768, length, 1024 // length)


def on_gpu() -> list[PeerSize]:
    """124M and 350M in bf16, 32 and 16 sequences of 1,024 tokens a step."""
    return [
        PeerSize("124M, 1024 tokens, bf16", 50304, 12, 12, 768, 1024, 32, "cuda", "bf16"),
        PeerSize("350M, 1024 tokens, bf16", 50304, 24, 16, 1024, 1024, 16, "cuda", "bf16"),
    ]
