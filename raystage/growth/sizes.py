"""The sizes of a grown model, from a factor and from single sizes."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

from raystage.growth.check import GROWING
from raystage.growth.errors import GrowthError
from raystage.models.family import get_family
from raystage.models.spec import ModelSpec

_WIDE = ("d_model", "n_head", "n_kv_head", "d_ff")


def target_of(before: ModelSpec, width: Fraction | float | None = None, **sizes: Any) -> ModelSpec:
    """`before` with hidden size, heads and FFN units times `width`, and then with these sizes (of check.GROWING).

    GPT-2's heads fill its width: of d_model and n_head, the one not given follows the other. Raises GrowthError for sizes there
    are none of, and for a factor that splits a head or a unit, naming the nearest that do not.
    """
    if unknown := sorted(set(sizes) - set(GROWING)):
        raise GrowthError(f"{unknown[0]}: no size that grows; these do: {', '.join(GROWING)}")
    for key, size in sizes.items():
        if key != "rope_theta" and not (isinstance(size, int) and not isinstance(size, bool)):
            raise GrowthError(f"{key} {size!r}: must be a whole number")
    if width is not None and not (isinstance(width, Fraction | int | float) and 1 <= width < math.inf):
        raise GrowthError(f"width {width!r}: must be a factor of at least 1")
    if get_family(before.family).heads_fill_width:
        sizes = _filled(before, sizes)
    factor = Fraction(1 if width is None else width).limit_denominator(10_000)
    wide = {key: getattr(before, key) * factor for key in _WIDE if key not in sizes}
    for key, size in wide.items():
        if size.denominator != 1:
            raise GrowthError(
                f"width {factor}: {key} {getattr(before, key)} would become {float(size):g}; nearest that work: {_near(before, factor)}"
            )
    whole: dict[str, Any] = {key: int(size) for key, size in wide.items()}
    return dataclasses.replace(before, **whole, **sizes)


def _filled(before: ModelSpec, sizes: dict[str, Any]) -> dict[str, Any]:
    """GPT-2 has no key-value heads of its own, and its width is its heads."""
    if "d_model" in sizes and "n_head" not in sizes:
        sizes = {**sizes, "n_head": sizes["d_model"] // before.head_dim}
    if "n_head" in sizes:
        sizes = {"d_model": sizes["n_head"] * before.head_dim, "n_kv_head": sizes["n_head"], **sizes}
    return sizes


def _near(before: ModelSpec, factor: Fraction) -> str:
    parts = math.gcd(*(getattr(before, key) for key in _WIDE))
    below, above = math.floor(factor * parts), math.ceil(factor * parts)
    return " or ".join(str(Fraction(n, parts)) for n in (below, above) if n > parts)
