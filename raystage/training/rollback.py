"""A rollback: the parameters of an earlier checkpoint, at the present place in the data."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.training.checkpoint import CheckpointStore, Stored
from raystage.training.counters import Counters
from raystage.training.job import Job
from raystage.training.manifest import Manifest
from raystage.training.start import from_checkpoint
from raystage.training.state import TrainState

REASON = "rollback"  # why the checkpoint right after one was written
_NONE = (-1, -1, -1)


def choose_target(
    store: CheckpointStore, last_good_step: int, rollbacks: Sequence[Mapping[str, Any]], every: int, ranks: Ranks
) -> Stored | None:
    """The newest undamaged checkpoint up to `last_good_step`, preferably one that no rollback has gone to; the same on every rank.

    Where training fails again without a new checkpoint in between, that state may be what is bad, and not the data. `rollbacks`: the
    records of those before, whose own trouble, seen at a check over the last `every` steps, is in the checkpoints between it and them.
    """

    def is_good(manifest: Manifest) -> bool:
        step, n = manifest.counters.step, manifest.counters.n_rollbacks
        return step <= last_good_step and not any(n < r["n_rollbacks"] and step > r["check_step"] - every for r in rollbacks)

    found, used = None, {record["restored_step"] for record in rollbacks}
    if ranks.is_first:
        before = store.latest_good(lambda m: is_good(m) and m.reason != REASON and m.counters.step not in used)
        found = before or store.latest_good(is_good)
    key = tuple(ranks.from_first(list(found.manifest.key if found else _NONE)))
    if ranks.is_first or key == _NONE:
        return found
    return store.with_key(key)


def roll_back(before: Counters, target: Stored, job: Job, device: Device, ranks: Ranks) -> TrainState:
    """The checkpoint's model, optimizer and stage; steps, tokens and data go on from where they were `before`."""
    restored = from_checkpoint(job, target, target.manifest.taken, device, ranks)
    counters = before.after_rollback(restored.counters, job.config.model.context_length)
    ranks.wait()  # the checkpoint that rank 0 writes next may retire this one while another rank still reads it
    return dataclasses.replace(restored, counters=counters)
