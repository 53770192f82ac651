"""Which growths there are: everything refused here is refused before a tensor is touched."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

from raystage.growth.errors import GrowthError
from raystage.growth.method import Method
from raystage.models.family import get_family
from raystage.models.spec import ModelSpec

_SIZES = ("n_layer", "d_model", "n_head", "n_kv_head", "d_ff", "context_length")
GROWING = (*_SIZES, "rope_theta")


def check_growth(before: ModelSpec, after: ModelSpec, method: Method) -> None:
    """Raises GrowthError for a target that cannot be reached, naming the nearest ones that can."""
    for key in _SIZES:
        if getattr(after, key) < getattr(before, key):
            raise GrowthError(f"{key} {getattr(before, key)} -> {getattr(after, key)}: growth never makes a model smaller")
    sizes = {key: getattr(before, key) for key in GROWING}
    if dataclasses.replace(after, **sizes) != before:
        odd = [f.name for f in dataclasses.fields(before) if f.name not in sizes and getattr(before, f.name) != getattr(after, f.name)]
        raise GrowthError(f"{', '.join(odd)}: growth changes {', '.join(sizes)} alone")
    if (before.rope_theta is None) != (after.rope_theta is None):
        raise GrowthError(
            f"rope_theta: {before.family} has learned positions; leave it out" if before.rope_theta is None else "rope_theta: must be given"
        )
    _check_heads(before, after)
    if before.n_layer == 0 < after.n_layer and method.new_layers == "copy":
        raise GrowthError("new_layers=copy: there is no layer to copy; fresh starts from none")


def _check_heads(before: ModelSpec, after: ModelSpec) -> None:
    fits = get_family(before.family).width_fits

    def works(key: str, size: int) -> bool:
        target = _with(after, key, size)
        return target != before and fits(target) and _heads_fit(before, target.n_head, target.n_kv_head)

    if fits(after) and _heads_fit(before, after.n_head, after.n_kv_head):
        return
    if not fits(after):
        cause = f"d_model {after.d_model}: does not go with {after.n_head} heads of {after.head_dim} channels in {before.family}"
    else:
        cause = (
            f"n_head {after.n_head} with n_kv_head {after.n_kv_head}: cannot keep what {before.n_head} query heads on "
            f"{before.n_kv_head} key-value heads compute"
        )
    keys = ["d_model", "n_head", *(["n_kv_head"] if after.n_kv_head != after.n_head else [])]
    found = {key: nearest(getattr(after, key), functools.partial(works, key), at_least=getattr(before, key)) for key in keys}
    ways = [f"{key} {numbers}" for key, numbers in found.items() if numbers]
    raise GrowthError(f"{cause}; " + (f"nearest that work: {', or '.join(ways)}" if ways else "no change of one of them alone mends it"))


def _with(spec: ModelSpec, key: str, size: int) -> ModelSpec:
    """The spec with one of its sizes changed. Heads that fill the width follow it; where each query head has its
    own key-value head, that stays so."""
    sizes: dict[str, Any] = {key: size}
    if key == "d_model" and get_family(spec.family).heads_fill_width and spec.n_head == spec.d_model // spec.head_dim:
        sizes["n_head"] = size // spec.head_dim
    if "n_head" in sizes and spec.n_kv_head == spec.n_head:
        sizes["n_kv_head"] = sizes["n_head"]
    return dataclasses.replace(spec, **sizes)


def _heads_fit(before: ModelSpec, n_head: int, n_kv_head: int) -> bool:
    """Whether every group is whole, and the copies of each key-value head have room for all of its query heads."""
    return n_head % n_kv_head == 0 and (n_kv_head // before.n_kv_head) * (n_head // n_kv_head) >= before.n_head // before.n_kv_head


def nearest(target: int, fits: Callable[[int], bool], at_least: int, within: int = 4096) -> str:
    """The nearest fitting numbers below and above the target, as words; empty where there is none within reach."""

    def first(candidates: Iterable[int]) -> list[int]:
        return [found] if (found := next((n for n in candidates if fits(n)), None)) is not None else []

    below = first(range(target, max(at_least, target - within) - 1, -1))
    above = first(range(target + 1, target + within))
    return " or ".join(str(n) for n in below + above)
