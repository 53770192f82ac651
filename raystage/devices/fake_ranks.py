"""One process that stands for one of many ranks: collectives that send nothing and have tensors of the right shapes at once.

torch has them for its own tests and for its memory tracker, and nothing public; `tests/training/test_sharded_memory.py` notices a change.
"""

import contextlib
from collections.abc import Iterator

import torch.distributed as dist

from raystage.devices.ranks import Ranks


@contextlib.contextmanager
def fake_ranks(world_size: int) -> Iterator[Ranks]:
    """Rank 0 of so many, in a process that has joined no others. What it receives are no numbers: for shapes and memory alone."""
    # both register what they have where they are imported: the group's backend, and collectives on tensors without numbers
    import torch.distributed._tools.fake_collectives
    import torch.testing._internal.distributed.fake_pg  # noqa: F401

    dist.init_process_group("fake", rank=0, world_size=world_size, store=dist.HashStore())
    try:
        yield Ranks(0, world_size)
    finally:
        dist.destroy_process_group()
