"""Checkpoints written behind training's back: a copy in memory, then one writer, one checkpoint at a time and in order."""

from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor, nn

from raystage.config.schema import Checkpoint
from raystage.growth.tensors import TrainingTensors
from raystage.training.checkpoint import CheckpointStore
from raystage.training.manifest import Manifest

_MAX_WAITING = 2  # copies of the state in memory: the one before a growth and the one after it


class Saver:
    """An error of the writer is raised by the call that comes after it."""

    def __init__(self, store: CheckpointStore, settings: Checkpoint) -> None:
        self._store, self._settings = store, settings
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: list[Future[None]] = []

    def save(self, manifest: Manifest, model: nn.Module, tensors: TrainingTensors, *, frozen: bool = False) -> None:
        """Returns once the tensors are copied; `frozen` ones, which nobody changes before `wait` returns, are not."""
        self._finish(leave=_MAX_WAITING - 1)
        copied = tensors if frozen else _copied(tensors)
        self._writing.append(self._writer.submit(self._write, manifest, model, copied))

    def wait(self) -> None:
        """Until everything handed over is on disk."""
        self._finish(leave=0)

    def _finish(self, leave: int) -> None:
        while len(self._writing) > leave or (self._writing and self._writing[0].done()):
            self._writing.pop(0).result()

    def _write(self, manifest: Manifest, model: nn.Module, tensors: TrainingTensors) -> None:
        self._store.save(manifest, model, tensors)
        self._store.retire(self._settings.keep_last, self._settings.keep_best)


def _copied(tensors: TrainingTensors) -> TrainingTensors:
    def copy(named: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}

    return TrainingTensors(copy(tensors.parameters), {name: copy(fields) for name, fields in tensors.states.items()}, tensors.optimizer)
