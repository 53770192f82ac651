"""Bytes that tensor operations read and write, counted operation by operation."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ALLOCATES_ONLY = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided")
_WRITES_ONLY = ("aten::copy_", "aten::normal_", "aten::fill_", "aten::zero_", "aten::random_")


class Traffic(TorchDispatchMode):
    """Counts while it is entered. Views move nothing; an operation reads its tensors and writes its result, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.read_bytes = 0
        self.written_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or func.name().partition(".")[0] in _ALLOCATES_ONLY:
            return result
        overwrites = func.name().partition(".")[0] in _WRITES_ONLY
        self.read_bytes += _bytes(tree_leaves(args[1:] if overwrites else args))
        self.written_bytes += _bytes(tree_leaves(result))
        return result


def state_bytes(tensors: Iterable[Tensor]) -> int:
    """Memory of the tensors' elements."""
    return sum(t.numel() * t.element_size() for t in tensors)


def _bytes(leaves: Iterable[object]) -> int:
    return state_bytes(leaf for leaf in leaves if isinstance(leaf, Tensor))
