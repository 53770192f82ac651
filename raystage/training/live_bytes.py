"""Bytes of all tensors that are alive, and the most there ever were, of code that runs on tensors that have shapes and no numbers."""

import dataclasses
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclasses.dataclass
class _Size:
    n_bytes: int


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages that operations return, from then until nobody holds them; of sharded tensors, of this rank's part."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: weakref.WeakKeyDictionary[torch.UntypedStorage, _Size] = weakref.WeakKeyDictionary()
        self._bytes = self.peak_bytes = self._generation = 0
        self._resize = torch.UntypedStorage.resize_

    def __enter__(self) -> "LiveBytes":
        resize = self._resize

        def resize_(storage: torch.UntypedStorage, n_bytes: int) -> torch.UntypedStorage:
            done = resize(storage, n_bytes)
            if storage in self._sizes:
                self._set(self._sizes[storage], n_bytes, self._generation)
            return done

        # FSDP2 frees and gives back the memory of whole parameters so; no operation is called that a mode could see
        torch.UntypedStorage.resize_ = resize_  # type: ignore[assignment]
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*exception)

    def begin(self, tensors: Iterable[Tensor]) -> None:
        """Counts these and nothing that came before them."""
        self._sizes, self._bytes, self.peak_bytes = weakref.WeakKeyDictionary(), 0, 0
        self._generation += 1
        for tensor in tensors:
            self._note(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0  # an optimizer asks for a number that is not there
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
        if storage not in self._sizes:
            size = self._sizes[storage] = _Size(0)
            self._set(size, storage.nbytes(), self._generation)
            weakref.finalize(storage, self._set, size, 0, self._generation)

    def _set(self, size: _Size, n_bytes: int, generation: int) -> None:
        if generation == self._generation:
            self._bytes += n_bytes - size.n_bytes
            self.peak_bytes = max(self.peak_bytes, self._bytes)
        size.n_bytes = n_bytes
