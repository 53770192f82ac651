"""The keys of `raystage replay`: those of pacing, read without a model or a run around them."""

from collections.abc import Iterable

from pydantic import Field
from pydantic.dataclasses import dataclass

from raystage.config.errors import ConfigError
from raystage.config.fields import STRICT
from raystage.config.load import validated
from raystage.config.pacing import Pacing


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Replay:
    pacing: Pacing = Field(default=Pacing(), description="when a stage ends and what comes next")


def read_pacing(overrides: Iterable[str]) -> Pacing:
    """The pacing that `pacing.key=value` overrides describe. Raises ConfigError."""
    pacing = validated(Replay, {}, overrides, help_command="raystage replay --help").pacing
    if pacing.signal != "loss":
        raise ConfigError(f"pacing.signal={pacing.signal}: a recorded curve has no probe; replay it with loss")
    return pacing
