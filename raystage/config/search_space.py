"""The space of a search: values, or a range of them, for keys of a run's configuration."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from raystage.config.errors import ConfigError
from raystage.config.keys import keys

_RANGE_KEYS = {"low", "high", "steps", "log"}
_DIGITS = 6  # significant ones of a value in a range
MOST_POINTS = 10_000

Point = tuple[tuple[str, str], ...]  # (key, value as JSON) of each dimension


@dataclasses.dataclass(frozen=True)
class Dimension:
    """`values`, as JSON, in the order given; none where it is the whole range from `low` to `high`, `log` on a logarithmic scale.

    `whole`: of whole numbers alone, as the key wants it.
    """

    key: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def text(self, number: float) -> str:
        """A number of the range, as JSON, short."""
        return json.dumps(round(number) if self.whole else float(f"{number:.{_DIGITS}g}"))


@dataclasses.dataclass(frozen=True)
class Space:
    dimensions: tuple[Dimension, ...]

    def __getitem__(self, key: str) -> Dimension:
        return next(dimension for dimension in self.dimensions if dimension.key == key)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(dimension.key for dimension in self.dimensions)

    @property
    def is_finite(self) -> bool:
        """Whether there are so many points, and not a whole range of them."""
        return all(dimension.values for dimension in self.dimensions)

    def corners(self) -> Iterator[Point]:
        """Every point of a finite space; of a range its ends."""
        ends = [dimension.values or (dimension.text(dimension.low), dimension.text(dimension.high)) for dimension in self.dimensions]
        return (tuple(zip(self.keys, values, strict=True)) for values in itertools.product(*ends))


def overrides_of(point: Point) -> list[str]:
    """A point as `key=value` overrides of a run's configuration."""
    return [f"{key}={value}" for key, value in point]


def read_space(tree: Any) -> Space:
    """The space of a mapping of dotted keys (nested ones too) to lists or ranges. Raises ConfigError."""
    if not isinstance(tree, Mapping) or not tree:
        raise ConfigError("space: must be a mapping of keys to values to try, like pacing.warmup.fraction: {low: 0.1, high: 0.6, steps: 6}")
    space = Space(tuple(_dimensions("", tree)))
    n_points = math.prod(max(1, len(dimension.values)) for dimension in space.dimensions)
    if n_points > MOST_POINTS:
        raise ConfigError(f"space: {n_points:,} points, more than {MOST_POINTS:,}; give fewer values")
    return space


def _dimensions(prefix: str, tree: Mapping[str, Any]) -> Iterator[Dimension]:
    for leaf, value in tree.items():
        key = f"{prefix}{leaf}"
        if isinstance(value, Mapping) and not _RANGE_KEYS & value.keys():
            yield from _dimensions(f"{key}.", value)
        elif isinstance(value, Mapping):
            yield _range(key, value)
        elif isinstance(value, list) and value:
            texts = tuple(json.dumps(entry) for entry in value)
            if len(set(texts)) < len(texts):
                raise ConfigError(f"space.{key}: gives a value twice")
            yield Dimension(key, texts)
        else:
            raise ConfigError(f"space.{key}: must be a list of values to try, or a range {{low: 0.1, high: 0.6, steps: 6}}")


def _range(key: str, tree: Mapping[str, Any]) -> Dimension:
    name = f"space.{key}"
    if odd := sorted(tree.keys() - _RANGE_KEYS):
        raise ConfigError(f"{name}.{odd[0]}: no such key; a range has low, high, steps and log")
    low, high, steps, log = tree.get("low"), tree.get("high"), tree.get("steps"), tree.get("log", False)
    if not all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in (low, high)):
        raise ConfigError(f"{name}: a range needs the numbers low and high")
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if not low < high:
        raise ConfigError(f"{name}: an empty range, low={low} is not below high={high}")
    if not isinstance(log, bool) or (log and low <= 0):
        raise ConfigError(f"{name}.log={log}: must be true or false, and true only above 0")
    whole = any(known.name == key and known.allowed.startswith("a whole number") for known in keys())
    dimension = Dimension(key, (), low, high, log, whole)
    if steps is None:
        return dimension
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 2:
        raise ConfigError(f"{name}.steps={steps}: must be a whole number at least 2, or left out (asha takes the whole range)")
    shares = [i / (steps - 1) for i in range(steps)]
    numbers = [low * (high / low) ** share if log else low + (high - low) * share for share in shares]
    return dataclasses.replace(dimension, values=tuple(dict.fromkeys(dimension.text(number) for number in numbers)))
