"""What happens in Ray Train's controller when workers fail: they begin again at once where nothing else is needed, or the fit ends.

A new fit starts a new controller process, which takes longer than all the rest; but only it can have another number of workers.
"""

import dataclasses
from collections import Counter
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.train import UserCallback

from raystage.runtime.engine import FatalError
from raystage.runtime.failures import is_of_peers
from raystage.runtime.group import Group
from raystage.runtime.ray_nodes import ray_nodes
from raystage.training.ports import Ending

_ASK_TIMEOUT_S = 5


@dataclasses.dataclass(frozen=True)
class GroupEnd:
    """`ending`: None where the group failed; `fatal`: what every further group would meet again; `error`: what Ray says of a failure."""

    ending: Ending | None = None
    fatal: str | None = None
    error: str = ""


class GroupFailedError(Exception):
    """Ends a fit; its argument is the GroupEnd."""


class AnswerFailures(UserCallback):
    """Lets Ray Train start the workers again, as many as before, where it is of use, and ends the fit where not."""

    def __init__(self, controller: Any, group: Group) -> None:
        self._controller, self._group = controller, group

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train before it starts them again. Raises GroupFailedError."""
        end = end_of(worker_exceptions)
        if end.fatal is not None or not self._has_room() or not self._goes_on(end.error):
            raise GroupFailedError(end)

    def _has_room(self) -> bool:
        """Whether nodes that stay hold as many workers as before."""
        try:
            workers = ray.get(self._controller.workers.remote(), timeout=_ASK_TIMEOUT_S)
            room = self._group.hardware.room(ray_nodes(), Counter(worker.node_id for worker in workers.values()))
        except RayError:
            return False
        return room >= self._group.n_workers

    def _goes_on(self, error: str) -> bool:
        try:
            return bool(ray.get(self._controller.failed.remote(error), timeout=_ASK_TIMEOUT_S))
        except RayError:
            return False


def end_of(failures: dict[int, Exception]) -> GroupEnd:
    """Of workers that failed, by rank."""
    return GroupEnd(fatal=_fatal(failures), error=_cause(failures))


def _fatal(failures: dict[int, Exception]) -> str | None:
    """The message of a FatalError that a worker raised."""
    return next((str(failure) for failure in failures.values() if isinstance(failure, FatalError)), None)


def _cause(failures: dict[int, Exception]) -> str:
    """In one line: a worker that is gone before what the others say of it, else the last line of the innermost error."""
    for rank, failure in failures.items():
        if isinstance(getattr(failure, "health_check_failure", failure), RayActorError):
            return f"the process of worker {rank} is gone: killed, out of memory, or its node with it"
    own = next((failure for failure in failures.values() if not is_of_peers(str(failure))), None)
    return last_line(own or next(iter(failures.values())))


def last_line(error: Exception) -> str:
    """Of its message; its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
