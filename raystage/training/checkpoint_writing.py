"""Checkpoints of a run folder, written whole or not at all.

One of whole tensors is a folder that `AutoModelForCausalLM.from_pretrained` loads, with the optimizer and the manifest
beside it; one of sharded tensors has a file a rank (checkpoint_files.py). The manifest is written last.
"""

import dataclasses
import shutil
from pathlib import Path

import torch.distributed as dist
from transformers import PretrainedConfig

from raystage.data.durable import begin_folder, digest, finish_folder, partial_of, whole_folder
from raystage.growth.tensors import TrainingTensors
from raystage.training.checkpoint import MANIFEST_FILE, CheckpointStore
from raystage.training.checkpoint_files import write_whole
from raystage.training.manifest import Manifest
from raystage.training.sharded_files import together, write_shards


class CheckpointWriter(CheckpointStore):
    """The store of who trains the run."""

    def save(self, manifest: Manifest, config: PretrainedConfig, tensors: TrainingTensors) -> Path:
        """Writes one checkpoint; the folder appears when all of it is on disk."""
        target = self._target(manifest)
        with whole_folder(target, replace=True) as partial:
            write_checkpoint(partial, manifest, config, tensors)
        return target

    def save_shards(self, manifest: Manifest, config: PretrainedConfig, tensors: TrainingTensors, group: dist.ProcessGroup) -> Path:
        """The same for sharded tensors in host memory: all ranks of `group` call it, each writes its own shards.

        The folder appears when all ranks have written; an error of one is raised on all.
        """
        target, is_first = self._target(manifest), dist.get_rank(group) == 0
        try:
            with together(group):
                if is_first:
                    begin_folder(target)
            files = write_shards(partial_of(target), tensors, group)
            with together(group):
                if is_first:
                    _write_beside(partial_of(target), manifest, config, files)
                    finish_folder(target, replace=True)
        except BaseException:
            if is_first:
                shutil.rmtree(partial_of(target), ignore_errors=True)
            raise
        return target

    def _target(self, manifest: Manifest) -> Path:
        suffix = f"-{manifest.reason}" if manifest.pinned else f"-{manifest.position}"
        return self.folder / f"{manifest.counters.step:08d}-{manifest.attempt}{suffix}"


def write_checkpoint(folder: Path, manifest: Manifest, config: PretrainedConfig, tensors: TrainingTensors) -> None:
    """Writes the files of one checkpoint into an empty folder, the manifest last."""
    names = write_whole(folder, tensors)
    _write_beside(folder, manifest, config, {name: digest(folder / name) for name in names})


def _write_beside(folder: Path, manifest: Manifest, config: PretrainedConfig, files: dict[str, str]) -> None:
    config.save_pretrained(folder)
    (folder / MANIFEST_FILE).write_text(dataclasses.replace(manifest, files=files).to_json())
