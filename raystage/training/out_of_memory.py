"""Memory that runs out while a stage is tried: told apart from other errors, and said in one line."""

from collections.abc import Callable
from typing import TypeVar

import torch

from raystage.models.spec import ModelSpec
from raystage.training.errors import RehearsalError

# torch.OutOfMemoryError is CUDA's; the CPU's allocator, CUDA's libraries and XLA raise a plain RuntimeError
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "RESOURCE_EXHAUSTED")

T = TypeVar("T")


def within_memory(action: Callable[[], T]) -> T | None:
    """What it returns, or None where memory ran out. The error goes, and with it the frames that hold tensors."""
    try:
        return action()
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        return None


def too_large(spec: ModelSpec, length: int, device_name: str) -> RehearsalError:
    """The error for a model that does not train on one sequence of `length` tokens."""
    return RehearsalError(
        f"out of memory on {device_name}: {spec.family} of {spec.n_layer} layers x {spec.d_model} channels does not train on one sequence "
        f"of {length} tokens; lower model.n_layer, model.d_model or model.context_length, or take devices with more memory"
    )
