"""A rollback: the parameters of an earlier checkpoint, at the present place in the data."""

import dataclasses

from raystage.devices import Device
from raystage.devices.ranks import Ranks
from raystage.training.checkpoint import CheckpointStore, Stored
from raystage.training.job import Job
from raystage.training.start import from_checkpoint
from raystage.training.state import TrainState

REASON = "rollback"  # why the checkpoint right after one was written
_NONE = (-1, -1, -1)


def choose_target(store: CheckpointStore, last_good_step: int, used: set[int], ranks: Ranks) -> Stored | None:
    """The newest undamaged checkpoint up to `last_good_step`, preferably one that no rollback has gone to; the same on every rank.

    Where training fails again without a new checkpoint in between, that state may be what is bad, and not the data.
    """
    found = None
    if ranks.is_first:
        before = store.latest_good(lambda m: m.counters.step <= last_good_step and m.reason != REASON and m.counters.step not in used)
        found = before or store.latest_good(lambda m: m.counters.step <= last_good_step)
    key = tuple(ranks.from_first(list(found.manifest.key if found else _NONE)))
    if ranks.is_first or key == _NONE:
        return found
    return store.with_key(key)


def roll_back(state: TrainState, target: Stored, job: Job, device: Device, ranks: Ranks) -> TrainState:
    """The checkpoint's model, optimizer and stage; steps, tokens and data go on from `state`."""
    restored = from_checkpoint(job, target, target.manifest.taken, device, ranks)
    counters = state.counters.after_rollback(restored.counters, job.config.model.context_length)
    return dataclasses.replace(restored, counters=counters)
