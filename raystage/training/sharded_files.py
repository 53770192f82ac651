"""Shards of a checkpoint: every rank writes its own, in step with the others over a group of the writing threads alone."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from raystage.data.durable import digest
from raystage.growth.tensors import TrainingTensors
from raystage.training.checkpoint_files import OPTIMIZER_CLASS_FILE, OPTIMIZER_SHARDS, flatten_states
from raystage.training.weight_files import MODEL_SHARDS


class ShardError(OSError):
    """A rank could not do its part of a checkpoint; every rank raises it, and the message is that rank's own."""


@contextlib.contextmanager
def together(group: dist.ProcessGroup) -> Iterator[None]:
    """Every rank of the group leaves the block, or none: an error of one is raised on all. All ranks enter it in the same order."""
    failed: Exception | None = None
    try:
        yield
    except Exception as error:  # whatever it is, it is raised below
        failed = error
    said: list[str | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(said, failed and f"{type(failed).__name__}: {failed}", group=group)
    if failed is not None:
        raise failed
    for other, words in enumerate(said):
        if words is not None:
            raise ShardError(f"rank {other} could not write its part of a checkpoint ({words})")


def write_shards(folder: Path, tensors: TrainingTensors, group: dist.ProcessGroup) -> dict[str, str]:
    """Writes this rank's shards of tensors in host memory; on rank 0 the checksums of all ranks' files by name, else none.

    Every rank calls it, and it raises on all of them when one fails.
    """
    for name, members in ((MODEL_SHARDS, tensors.parameters), (OPTIMIZER_SHARDS, flatten_states(tensors.states))):
        try:
            dcp.save(members, storage_writer=HuggingFaceStorageWriter(str(folder / name), save_distributed=True), process_group=group)
        except CheckpointException as error:  # on every rank, and no Exception
            rank, (cause, _) = next(iter(error.failures.items()))
            raise ShardError(f"rank {rank} could not write its part of a checkpoint ({type(cause).__name__}: {cause})") from error
    is_first = dist.get_rank(group) == 0
    mine: dict[str, str] = {}
    with together(group):
        if is_first:
            (folder / OPTIMIZER_SHARDS).mkdir(exist_ok=True)  # there is nothing in it before the first step
            (folder / OPTIMIZER_CLASS_FILE).write_text(json.dumps({"optimizer": tensors.optimizer}))
            mine[OPTIMIZER_CLASS_FILE] = digest(folder / OPTIMIZER_CLASS_FILE)
        for name in (MODEL_SHARDS, OPTIMIZER_SHARDS):
            # a rank reads back what it has written itself; the library counts ranks from 1
            for path in (folder / name).glob(f"shard-{dist.get_rank(group) + 1:05d}-*"):
                mine[f"{name}/{path.name}"] = digest(path)
    all_ranks: list[dict[str, str]] = [{} for _ in range(dist.get_world_size(group))]
    dist.gather_object(mine, all_ranks if is_first else None, group=group, group_dst=0)
    return {name: found for files in all_ranks for name, found in sorted(files.items())}
