"""What `raystage grow --dry-run` shows: sizes, parameters and memory before and after, from headers alone."""

import math

import torch
from rich.box import SIMPLE
from rich.table import Table

from raystage.growth.optimizer_state import meanings
from raystage.runtime.grow_plan import GrowthPlan
from raystage.tracking.units import count

_SIZES = {
    "layers": "n_layer",
    "channels": "d_model",
    "query heads": "n_head",
    "key-value heads": "n_kv_head",
    "feed-forward units": "d_ff",
    "context, tokens": "context_length",
    "rope theta": "rope_theta",
}
_STATE_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
_WIDE_BYTES = 4


def grow_table(plan: GrowthPlan) -> Table:
    """One line a size, the weights, the optimizer's state, the memory that growth takes, and whether the function stays."""
    before, after = plan.source.spec, plan.after
    table = Table(before.family, "before", "after", box=SIMPLE)
    for name, key in _SIZES.items():
        if getattr(before, key) is not None:
            table.add_row(name, f"{getattr(before, key):,}", f"{getattr(after, key):,}")
    shapes = {name: tuple(p.shape) for name, p in plan.source.family.build_empty(plan.config).named_parameters()}
    old = [math.prod(plan.source.headers[stored].shape) for stored in plan.source.names]
    new = [math.prod(shape) for shape in shapes.values()]
    table.add_row("parameters", count(sum(old)), count(sum(new)))
    weights = (sum(old) * plan.source.dtype.itemsize, sum(new) * plan.dtype.itemsize)
    states = (_stored_state_bytes(plan), _grown_state_bytes(plan, shapes))
    table.add_row("weights", *(f"{_bytes(n)}, {dtype}" for n, dtype in zip(weights, _names(plan), strict=True)))
    table.add_row("optimizer state", *(_bytes(n) if n else "none" for n in states))
    table.add_row("memory for the growth", "", f"about {_bytes(_memory_bytes(plan, weights, sum(states), sum(new), max(new)))}")
    table.add_row("function", "", f"kept, to {plan.tolerance:.0e} of the logits" if plan.preserves else "changes")
    return table


def _names(plan: GrowthPlan) -> tuple[str, str]:
    return str(plan.source.dtype).removeprefix("torch."), str(plan.dtype).removeprefix("torch.")


def _stored_state_bytes(plan: GrowthPlan) -> int:
    fields = plan.source.optimizer.fields if plan.source.optimizer else {}
    return sum(math.prod(header.shape) * _STATE_BYTES.get(header.dtype, _WIDE_BYTES) for header in fields.values())


def _grown_state_bytes(plan: GrowthPlan, shapes: dict[str, tuple[int, ...]]) -> int:
    """Of the states that are written: layers that start switched off have none until their first step."""
    optimizer, growth = plan.source.optimizer, plan.growth
    if optimizer is None or not plan.keeps_state:
        return 0
    known, total = meanings(optimizer.kind), 0
    for name in shapes:
        number, rest = growth.axes.split(name)
        layer = None if number is None else growth.layers[number]
        if layer is not None and (layer.source is None or not growth.keeps_state(layer)):
            continue
        source = rest if layer is None else growth.axes.block_prefix.format(layer.source) + rest
        for field, meaning in known.items():
            if (header := optimizer.fields.get(f"{field}:{source}")) is not None:
                empty = torch.empty(header.shape, device="meta")
                total += growth.state(name, empty, meaning).numel() * _STATE_BYTES.get(header.dtype, _WIDE_BYTES)
    return total


def _memory_bytes(plan: GrowthPlan, weights: tuple[int, int], states: int, n_parameters: int, largest: int) -> int:
    """Either the small and the grown state with the largest parameter in work, or the grown one while its logits are computed."""
    growing = sum(weights) + states + 2 * largest * _WIDE_BYTES
    copied = 0 if plan.dtype.itemsize >= _WIDE_BYTES else n_parameters * _WIDE_BYTES
    return max(growing, weights[1] + states + copied)


def _bytes(number: int) -> str:
    for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 999.5 * size else f"{number / size:,.0f} {unit}"
    return f"{number} bytes"
