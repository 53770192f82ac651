"""Do two models say the same? Their logits on a few random tokens, computed in float32 or better from the weights as they are."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig

from raystage.models.family import Family, build_with

_ROWS, _POSITIONS, _SEED = 2, 64, 0


@dataclasses.dataclass(frozen=True)
class Answer:
    """`logits_BLV`: each position's mean taken away, which no probability depends on; `loss`: on the next random token."""

    logits_BLV: Tensor
    loss: float


def probe_tokens(vocab_size: int, context_length: int) -> Tensor:
    """The fixed batch (B, L) of random tokens."""
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(0, vocab_size, (_ROWS, min(_POSITIONS, context_length)), generator=generator)


@torch.no_grad()
def answer(config: PretrainedConfig, family: Family, parameters: dict[str, Tensor], tokens_BL: Tensor) -> Answer:
    """What the model of these parameters says to the tokens."""
    wide = {name: value.to(torch.promote_types(value.dtype, torch.float32)) for name, value in parameters.items()}
    model = build_with(config, family, wide).eval()
    logits_BLV = model(input_ids=tokens_BL, use_cache=False).logits
    # the last position answers to the first token, so that a context of one token has a loss, too
    loss = F.cross_entropy(logits_BLV.flatten(0, 1).double(), tokens_BL.roll(-1, 1).flatten())
    return Answer(logits_BLV - logits_BLV.mean(-1, keepdim=True), float(loss))


def difference(before: Answer, after: Answer) -> float:
    """Largest difference of a logit, relative to the largest logit."""
    return float((after.logits_BLV - before.logits_BLV).abs().max() / before.logits_BLV.abs().max().clamp(min=1e-6))
