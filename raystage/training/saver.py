"""Checkpoints written behind training's back: a copy in memory, then one writer, one checkpoint at a time and in order."""

import types
from concurrent.futures import Future, ThreadPoolExecutor, wait

from torch.distributed.device_mesh import DeviceMesh
from transformers import PretrainedConfig

from raystage.config.schema import Checkpoint
from raystage.devices.ranks import Ranks
from raystage.growth.sharded import is_sharded
from raystage.growth.tensors import TrainingTensors
from raystage.training.checkpoint import CheckpointStore
from raystage.training.host_copy import HostCopy, HostMemory
from raystage.training.manifest import Manifest
from raystage.training.sharded_files import together

_MAX_WAITING = 2  # copies of the state in memory: the one before a growth and the one after it


class Saver:
    """A context: it leaves when everything is written. After an error nothing more is, so that no checkpoint follows a missing
    one, and the next call raises the error. Whole tensors are rank 0's to save, alone; sharded ones are saved by every rank."""

    def __init__(self, store: CheckpointStore, settings: Checkpoint, ranks: Ranks | None = None) -> None:
        self._store, self._settings, self._ranks = store, settings, ranks or Ranks()
        saving = self._ranks.saving
        self._mesh = DeviceMesh.from_group(saving, "cpu") if saving is not None else None
        self._memory = HostMemory()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: list[Future[None]] = []
        self._failed = False

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        try:
            self.wait()
        except Exception as late:
            if error is None:
                raise
            error.add_note(f"and the last checkpoint could not be written: {late}")
        finally:
            self._writer.shutdown()

    def save(self, manifest: Manifest, config: PretrainedConfig, tensors: TrainingTensors, *, frozen: bool = False) -> None:
        """Returns once the tensors are copied; `frozen` ones in host memory, which nobody changes before `wait` returns, are not."""
        self.check()
        while len(self._writing) >= _MAX_WAITING:
            self._writing.pop(0).result()
        self._writing.append(self._writer.submit(self._write, manifest, config, self._memory.copy(tensors, frozen)))

    def check(self) -> None:
        """Raises what the writer has met by now."""
        while self._writing and self._writing[0].done():
            self._writing.pop(0).result()

    def wait(self) -> None:
        """Until everything handed over is on disk."""
        writing, self._writing = self._writing, []
        wait(writing)
        for future in writing:
            future.result()

    def _write(self, manifest: Manifest, config: PretrainedConfig, copy: HostCopy) -> None:
        if self._failed:
            return
        try:
            tensors = copy.tensors(self._mesh)
            if self._ranks.saving is not None and is_sharded(tensors.parameters):
                self._store.save_shards(manifest, config, tensors, self._ranks.saving)
                with together(self._ranks.saving):  # a rank that goes on after another's error would wait for it for ever
                    self._retire()
            else:
                self._store.save(manifest, config, tensors)
                self._retire()
        except BaseException:
            self._failed = True
            raise
        self._memory.give_back(copy)

    def _retire(self) -> None:
        if self._ranks.is_first:
            self._store.retire(self._settings.keep_last, self._settings.keep_best)
