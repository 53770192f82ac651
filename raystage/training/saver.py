"""Checkpoints written behind training's back: a copy in memory, then one writer, one checkpoint at a time and in order."""

import dataclasses
import functools
import types
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch.distributed.device_mesh import DeviceMesh
from transformers import PretrainedConfig

from raystage.config.schema import Checkpoint
from raystage.devices.ranks import Ranks
from raystage.growth.sharded import is_sharded
from raystage.growth.tensors import TrainingTensors
from raystage.storage.faults import StorageError
from raystage.storage.patience import Patience
from raystage.training.checkpoint_writing import CheckpointWriter
from raystage.training.host_copy import HostCopy, HostMemory
from raystage.training.manifest import Manifest
from raystage.training.mirror import AnyMirror, NoMirror
from raystage.training.sharded_files import together

_DISK_FAULTS = (SafetensorError,)  # what safetensors makes of a full disk
_LOOK_EVERY_S = 1.0
_MAX_WAITING = 2  # copies of the state in memory: the one before a growth and the one after it


@dataclasses.dataclass(frozen=True)
class _Writing:
    """A checkpoint that is written, or waits."""

    done: Future[None]
    pinned: bool


class Saver:
    """A context: it leaves when everything is written. After an error nothing more is, so that no checkpoint follows a missing
    one, and the next call raises the error. Whole tensors are rank 0's to save, alone; sharded ones are saved by every rank.

    A disk that is full or away is no error before `patience` is over: the write of whole tensors is tried again while training goes on,
    and of the checkpoints that come meanwhile the latest waits, and every pinned one. Past that `has_given_up`, and leaving the context
    raises StorageError. `alive`: called now and then by who waits for a write that is tried again, as a sign of life.
    """

    def __init__(
        self,
        store: CheckpointWriter,
        settings: Checkpoint,
        ranks: Ranks | None = None,
        mirror: AnyMirror | None = None,
        patience: Patience | None = None,
        alive: Callable[[], object] = lambda: None,
    ) -> None:
        self._store, self._settings, self._ranks = store, settings, ranks or Ranks()
        self._mirror = mirror or NoMirror()
        self._patience, self._alive = patience or Patience(60 * settings.storage_retry_minutes), alive
        saving = self._ranks.saving
        self._mesh = DeviceMesh.from_group(saving, "cpu") if saving is not None else None
        self._memory = HostMemory()
        self._writer = ThreadPoolExecutor(1, "checkpoint", initializer=_same_gpu())
        self._writing: list[_Writing] = []
        self._failed = False
        self._late: StorageError | None = None

    @property
    def has_given_up(self) -> bool:
        """Whether storage was full or away for longer than the user's limit: the run is to stop."""
        return self._late is not None or self._mirror.has_given_up

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        try:
            self.wait()
        except Exception as late:
            if error is None:
                raise
            if late is not error:
                error.add_note(f"and the last checkpoint could not be written: {late}")
        finally:
            self._writer.shutdown()

    def save(self, manifest: Manifest, config: PretrainedConfig, tensors: TrainingTensors, *, frozen: bool = False) -> None:
        """Returns once the tensors are copied; `frozen` ones in host memory, which nobody changes before `wait` returns, are not."""
        self.check()
        if self._patience.is_tried:  # training does not wait for storage that is away; the newer state takes the place
            self._writing = [each for each in self._writing if each.pinned or not each.done.cancel()]
        else:
            while len(self._writing) >= _MAX_WAITING:
                self._result_of(self._writing.pop(0))
        done = self._writer.submit(self._write, manifest, config, self._memory.copy(tensors, frozen))
        self._writing.append(_Writing(done, manifest.pinned))

    def check(self) -> None:
        """Raises what the writer has met by now."""
        while self._writing and self._writing[0].done.done():
            self._writing.pop(0).done.result()

    def wait(self) -> None:
        """Until everything handed over is on disk. Raises what the writer has met, StorageError too."""
        writing, self._writing = self._writing, []
        for each in writing:
            self._wait_for(each)
        for each in writing:
            each.done.result()
        if self._late is not None:
            raise self._late

    def _result_of(self, writing: _Writing) -> None:
        self._wait_for(writing)
        writing.done.result()

    def _wait_for(self, writing: _Writing) -> None:
        while wait([writing.done], timeout=_LOOK_EVERY_S).not_done:
            if self._patience.is_tried:  # a write that hangs is no sign of life
                self._alive()

    def _write(self, manifest: Manifest, config: PretrainedConfig, copy: HostCopy) -> None:
        if self._failed:
            return
        try:
            if self._mesh is not None and copy.cuts:
                dist.barrier(group=self._mesh.get_group())  # a write would slow down another rank's copy, which training waits for
            tensors = copy.tensors(self._mesh)
            if self._ranks.saving is not None and is_sharded(tensors.parameters):
                self._store.save_shards(manifest, config, tensors, self._ranks.saving)
                with together(self._ranks.saving):  # a rank that goes on after another's error would wait for it for ever
                    self._retire()
            else:
                write = functools.partial(self._store.save, manifest, config, tensors)
                self._mirror.saved(self._patience.call("writing a checkpoint", write, also=_DISK_FAULTS))
                self._retire()
        except StorageError as error:
            self._failed, self._late = True, error
        except BaseException:
            self._failed = True
            raise
        self._memory.give_back(copy)

    def _retire(self) -> None:
        if self._ranks.is_first:
            self._store.retire(self._settings.keep_last, self._settings.keep_best, self._mirror.unsent())


def _same_gpu() -> Callable[[], None] | None:
    """For another thread: each begins with the first GPU, and torch's writer of shards asks for the stream of its thread's."""
    return functools.partial(torch.cuda.set_device, torch.cuda.current_device()) if torch.cuda.is_initialized() else None
