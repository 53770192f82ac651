"""What the driver looks at while a group of workers trains: room for more of them, nodes that leave, silence."""

import math
import time
from collections import Counter
from collections.abc import Callable

from ray.exceptions import RayError

from raystage.config import Config
from raystage.runtime.capacity import places
from raystage.runtime.controller_actor import DriverController, Word, Worker
from raystage.runtime.group import Group
from raystage.runtime.ray_nodes import ray_nodes
from raystage.runtime.ray_spare import Spares
from raystage.runtime.restarts import Restarts
from raystage.storage.address import is_uri
from raystage.tracking import plain_lines
from raystage.training.ports import Ask

_START_S = 120.0  # workers on their way get as long at least


class GroupWatch:
    """Asks the workers to stop or to leave. `workers`: those that have begun, by rank; `reached_step`: the furthest; `position`: of the
    plan, by their last word; `room`: for so many workers, theirs included, at the last look."""

    def __init__(
        self,
        controller: DriverController,
        group: Group,
        room: int,
        restarts: Restarts,
        spares: Spares,
        config: Config,
        say: Callable[[str], None],
    ) -> None:
        self._controller, self._group, self._restarts, self._spares = controller, group, restarts, spares
        self._resize_check_s, self._say = config.runtime.resize_check_s, say
        # a rank that waits for storage elsewhere is not frozen
        self._stall_s = 60 * (config.runtime.stall_minutes + is_uri(config.storage) * config.checkpoint.storage_retry_minutes)
        self._looked_s = time.monotonic()
        self.room = room
        self._n_failures = 0
        self._leave, self._killed_s = False, -math.inf
        self.workers: dict[int, Worker] = {}
        self.reached_step, self.position = -1, group.position

    def look(self, stop: bool) -> None:
        """Called often; again and again, since an actor that died and came back has forgotten what was asked."""
        ask: Ask | None = "stop" if stop else "leave" if self._leave else None
        word = self._controller.ask(ask, self.workers)
        if word is not None:
            self._hear(word)
        if self.all_began:
            self._spares.look(self.workers)
        if time.monotonic() - self._looked_s >= self._resize_check_s and not self._leave:
            self._looked_s = time.monotonic()
            self._look_at_nodes()

    def _hear(self, word: Word) -> None:
        for reached_step, error in word.failures[self._n_failures :]:
            self._say(self._restarts.after(reached_step, error))
            self.workers = {}
        self._n_failures = len(word.failures)
        if word.workers and any(self.workers.get(rank) != worker for rank, worker in word.workers.items()):
            self.workers, self._killed_s = dict(word.workers), -math.inf  # others have taken their place
        if word.step >= 0:
            self.reached_step, self.position = max(self.reached_step, word.step), word.position
        self._end_silence(word)

    @property
    def is_restarting(self) -> bool:
        """Whether the workers were to begin again where they are, and have not all done so."""
        return self._n_failures > 0 and not self.all_began

    @property
    def all_began(self) -> bool:
        """Whether every worker of the group has."""
        return len(self.workers) == self._group.n_workers

    def _look_at_nodes(self) -> None:
        if not self.all_began:
            return  # not all of them have begun
        ours = Counter(worker.node_id for worker in self.workers.values())
        try:
            nodes = ray_nodes()
            room_before, self.room = self.room, self._group.hardware.room(nodes, ours)
        except RayError:
            return  # the cluster has no time for us at the moment
        room = min(self.room, self._group.wanted.high)
        leaving = any(node.is_leaving and node.node_id in ours for node in nodes)
        if leaving:
            self._leave_because("a node in use will be taken away")
        elif min(room, room_before) > self._group.n_workers:
            self._leave_because(f"there is room for {plain_lines.workers(room)}")
        elif room > self._group.n_workers:
            self._spares.prepare(places(nodes, self._group.hardware.need, room - self._group.n_workers))

    def _leave_because(self, reason: str) -> None:
        self._leave = True
        self._say(f"{reason}: {plain_lines.workers(self._group.n_workers)} will save and leave, and training goes on with all that fit")

    def _end_silence(self, word: Word) -> None:
        """Workers that hang, one of them frozen perhaps, end by being killed, also where they hang before they have begun."""
        patience_s = self._stall_s if self.all_began else max(self._stall_s, _START_S)
        is_time = word.age_s >= patience_s and time.monotonic() - self._killed_s >= patience_s
        if is_time and self._controller.kill_workers():
            self._killed_s = time.monotonic()
            self._say(f"no step for {word.age_s:.0f} s (runtime.stall_minutes): the workers were killed")
