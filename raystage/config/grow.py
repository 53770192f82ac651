"""The keys of `raystage grow`: what a checkpoint becomes, and how."""

from collections.abc import Iterable
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic.dataclasses import dataclass

from raystage.config.duration import parse_duration
from raystage.config.errors import ConfigError
from raystage.config.load import validated
from raystage.config.schema import STRICT, GrowthMethod, Positive

_MAX_FACTOR = 1000


def _factor(value: Any) -> Fraction | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("no number")
    top, slash, bottom = str(value).partition("/")
    if slash and not (top.isdecimal() and bottom.isdecimal() and int(bottom)):
        raise ValueError("no fraction")
    factor = Fraction(str(value))
    if not 1 <= factor <= _MAX_FACTOR:
        raise ValueError("out of bounds")
    return factor


# the schema's words for what `_factor` takes
_FACTOR_SCHEMA = {
    "anyOf": [{"type": "number", "minimum": 1, "maximum": _MAX_FACTOR}, {"const": "a fraction like 4/3"}, {"type": "null"}],
    "default": None,
}
Factor = Annotated[Fraction | None, PlainValidator(_factor), WithJsonSchema(_FACTOR_SCHEMA)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Target(GrowthMethod):
    width: Factor = Field(default=None, description="factor of hidden size, heads, key-value heads and feed-forward units together")
    depth: Positive | None = Field(default=None, description="[layers] of the grown model; null: as many as before")
    d_model: Positive | None = Field(default=None, description="[channels] whatever width says; gpt2's heads follow")
    n_head: Positive | None = Field(default=None, description="[heads] of the queries, whatever width says")
    n_kv_head: Positive | None = Field(default=None, description="[heads] of keys and values, whatever width says")
    d_ff: Positive | None = Field(default=None, description="[units] of the feed-forward layer, whatever width says")
    context_length: Positive | None = Field(default=None, description="[tokens] of the grown model; null: as many as before")
    positions: Literal["repeat", "interpolate"] = Field(
        default="repeat", description="how learned positions (gpt2) get more; interpolate changes the function"
    )
    rope_theta: float | None = Field(
        default=None, gt=1, description="new base of the rotary positions (llama, qwen3), which changes the function; null: as before"
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="of the noise and of fresh layers")
    optimizer: Literal["keep", "reset"] = Field(default="keep", description="state of a raystage checkpoint's optimizer: grown, or dropped")
    dtype: Literal["source", "float32", "bfloat16", "float16"] = Field(
        default="source", description="of the grown weights; growth itself is computed in float32 or better"
    )
    duration: str | None = Field(
        default=None, description="of the run that goes on from a raystage checkpoint, as in training.duration; null: the run's it is from"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Grow:
    growth: Target = Field(default=Target(), description="what a checkpoint becomes, and how")


def read_target(overrides: Iterable[str]) -> Target:
    """The target that `growth.key=value` overrides describe. Raises ConfigError."""
    target = validated(Grow, {}, overrides, help_command="raystage grow --help").growth
    if target.duration is not None:
        try:
            parse_duration(target.duration)
        except ValueError as error:
            raise ConfigError(f"growth.duration={target.duration!r}: must be {error}") from None
    return target
