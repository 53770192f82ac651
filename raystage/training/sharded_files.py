"""Shards of a checkpoint: every rank writes its own, in step with the others over a group of the writing threads alone."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from raystage.data.durable import digest
from raystage.growth.tensors import TrainingTensors
from raystage.training.checkpoint_files import OPTIMIZER_CLASS_FILE, OPTIMIZER_SHARDS, flatten_states
from raystage.training.weight_files import MODEL_SHARDS


class OtherRankError(OSError):
    """Another rank could not do its part; the message is its own."""


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
    for rank, words in enumerate(said):
        if words is not None:
            raise OtherRankError(f"rank {rank} could not write its part of a checkpoint ({words})")


def in_host_memory(tensors: dict[str, Tensor], group: dist.ProcessGroup | None, copy: bool) -> dict[str, Tensor]:
    """The tensors on the CPU, sharded ones on a mesh of the `group` of writers; copies in any case where `copy` is true."""
    mesh = DeviceMesh.from_group(group, "cpu") if group is not None else None
    return {name: _moved(tensor.detach(), mesh, copy) for name, tensor in tensors.items()}


def _moved(tensor: Tensor, mesh: DeviceMesh | None, copy: bool) -> Tensor:
    if not isinstance(tensor, DTensor):
        return tensor.to("cpu", copy=copy)
    assert mesh is not None
    local = tensor.to_local().to("cpu", copy=copy)
    return DTensor.from_local(local, mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride())


def write_shards(folder: Path, tensors: TrainingTensors, group: dist.ProcessGroup) -> dict[str, str]:
    """Writes this rank's shards of tensors in host memory; on rank 0 the checksums of all ranks' files by name, else none.

    Every rank calls it, and it raises on all of them when one fails.
    """
    for name, members in ((MODEL_SHARDS, tensors.parameters), (OPTIMIZER_SHARDS, flatten_states(tensors.states))):
        with together(group):
            dcp.save(members, storage_writer=HuggingFaceStorageWriter(str(folder / name), save_distributed=True), process_group=group)
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
