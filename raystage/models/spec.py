"""What a model is, before any tensor: a manifest holds it, and who reads one need not import torch."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Everything that fixes a model's tensors. `head_dim` is the same at every size of a run.

    `d_ff`: units of the feed-forward layer; `tied`: the head is the token embedding; `rope_theta`: base of the
    rotary positions, None where positions are learned.
    """

    family: str
    vocab_size: int
    context_length: int
    n_layer: int
    d_model: int
    n_head: int
    n_kv_head: int
    head_dim: int
    d_ff: int
    tied: bool
    rope_theta: float | None
    dropout: float
    eot_id: int | None
