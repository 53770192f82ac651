"""A model and a batch that every arm of a bench trains."""

import dataclasses


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

    @property
    def tokens_a_step(self) -> int:
        return self.rows * self.length


def small(length: int) -> PeerSize:
    """14M parameters, 3M of them embeddings; 2,048 tokens a step."""
    return PeerSize(f"14M, {length} tokens", 8192, 6, 6, 384, length, 2048 // length)


def gpt2(length: int) -> PeerSize:
    """GPT-2 small, 124M parameters, its vocabulary padded to a multiple of 64; 1,024 tokens a step."""
    return PeerSize(f"124M, {length} tokens", 50304, 12, 12, 768, length, 1024 // length)
