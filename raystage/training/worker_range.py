"""How many workers a stage is trained by."""

import dataclasses

from raystage.config.schema import Config, WorkerRange


@dataclasses.dataclass(frozen=True)
class Workers:
    """At least `low` [workers], or training waits, and at most `high`."""

    low: int
    high: int

    def take(self, capacity: int) -> int | None:
        """How many of those that fit into the cluster; None where it holds too few."""
        return min(self.high, capacity) if capacity >= self.low else None


def all_ranges(config: Config) -> tuple[Workers, ...]:
    """Those that any stage may ask for."""
    return tuple(workers_of(config, position) for position in range(len(config.runtime.stage_workers or (None,))))


def workers_of(config: Config, position: int) -> Workers:
    """Those of the stage with `position` changes of the plan behind."""
    listed = config.runtime.stage_workers
    wanted = config.runtime.workers if listed is None else listed[min(position, len(listed) - 1)]
    return Workers(wanted.min, wanted.max) if isinstance(wanted, WorkerRange) else Workers(wanted, wanted)
