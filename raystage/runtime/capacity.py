"""How many workers a cluster holds."""

import dataclasses
from collections.abc import Iterable, Mapping


@dataclasses.dataclass(frozen=True)
class Node:
    """`free`: resources that nobody holds; `is_leaving`: it drains, and takes no new work."""

    node_id: str
    free: Mapping[str, float]
    is_leaving: bool


def capacity(nodes: Iterable[Node], need: Mapping[str, float], ours: Mapping[str, int]) -> int:
    """Workers that fit, each in need of `need`; those that run count too, `ours` by node."""
    return sum(ours.get(node.node_id, 0) + _fits(node.free, need) for node in nodes if not node.is_leaving)


def places(nodes: Iterable[Node], need: Mapping[str, float], n_workers: int) -> dict[str, int]:
    """Workers by node as Ray is likely to place them: packed, the nodes with most room first."""
    room = {node.node_id: _fits(node.free, need) for node in nodes if not node.is_leaving}
    taken: dict[str, int] = {}
    for node_id in sorted(room, key=lambda node_id: -room[node_id]):
        taken[node_id] = min(room[node_id], n_workers - sum(taken.values()))
    return {node_id: n for node_id, n in taken.items() if n}


def _fits(free: Mapping[str, float], need: Mapping[str, float]) -> int:
    # resources are counted in ten-thousandths, and 0.1 + 0.2 is no 0.3
    return min(int(free.get(name, 0.0) / amount + 1e-6) for name, amount in need.items())
