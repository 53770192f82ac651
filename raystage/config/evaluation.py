"""What is measured of checkpoints beside training."""

from pydantic import Field
from pydantic.dataclasses import dataclass

from raystage.config.fields import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    beside_training: bool = Field(
        default=False, description="measure each new checkpoint in a task of Ray, where the cluster has room; training does not wait"
    )
    texts: tuple[str, ...] = Field(default=(), description="text files for perplexity")
    lambada: str | None = Field(default=None, description="file of JSON lines for LAMBADA; null: none")
    validation: bool = Field(default=True, description="the held-out rows, by position")
    stride_tokens: int | None = Field(default=None, ge=1, description="[tokens] between windows over texts; null: the context")
    batch_tokens: int = Field(default=4096, ge=1, description="[tokens] of one forward pass")
