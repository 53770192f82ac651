"""The engine on Ray: one fit of Ray Train after the other trains the run, each with its number of workers, until it is done.

Workers leave on purpose, with a checkpoint, when nodes come or go or a stage is for others; they fail when a worker, a node or Ray Train's
own controller dies. Where as many can begin again at once they do so under the same fit; else the next fit is as large as the cluster
allows. Either way they go on where the run folder's checkpoints say.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray

from raystage.config import Config
from raystage.runtime.assignment import Assignment
from raystage.runtime.capacity import places
from raystage.runtime.controller_actor import DriverController, controller_name, start_controller
from raystage.runtime.engine import EngineError
from raystage.runtime.group import Group
from raystage.runtime.group_watch import GroupWatch
from raystage.runtime.hardware import hardware_of
from raystage.runtime.ray_cluster import connect
from raystage.runtime.ray_failure import GroupEnd
from raystage.runtime.ray_fit import Fit, backend_of
from raystage.runtime.ray_metrics import ray_metrics
from raystage.runtime.ray_nodes import ray_nodes
from raystage.runtime.ray_spare import Spares, imports_first
from raystage.runtime.restarts import Restarts
from raystage.training.checkpoint import CheckpointStore
from raystage.training.policy import policy_of
from raystage.training.worker_range import Workers, workers_of

if TYPE_CHECKING:
    from raystage.runtime.ray_evaluation import Evaluations

_LOOK_EVERY_S = 0.5
_SAY_EVERY_S = 60.0
_SETTLE_S = 5.0  # after a group has ended Ray may need as long to see its resources free

Say = Callable[[str], None]


class RayEngine:
    """Joins the cluster at `runtime.address` or RAY_ADDRESS, else starts one that ends with this process."""

    def __init__(self, config: Config) -> None:
        self._config, self._runtime = config, config.runtime
        connect(config)
        self._hardware = hardware_of(config)
        self._backend = backend_of(self._hardware)
        self._stop_asked = threading.Event()
        self._evaluations: Evaluations | None = None

    def request_stop(self) -> None:
        self._stop_asked.set()

    def train(self, assignment: Assignment, say: Say) -> bool:
        actor = start_controller(controller_name(assignment.config.name), policy_of(assignment.config))
        try:
            with ray_metrics(assignment.run_dir, assignment.config):
                if self._config.evaluation.beside_training:
                    return self._train_and_measure(assignment, actor, say)
                return self._train(assignment, actor, say)
        finally:
            ray.kill(actor)

    def _train_and_measure(self, assignment: Assignment, actor: Any, say: Say) -> bool:
        from raystage.runtime.ray_evaluation import Evaluations  # imports torch, which others need not wait for

        self._evaluations = evaluations = Evaluations(assignment, self._hardware.device, say)
        try:
            with evaluations.watching():
                finished = self._train(assignment, actor, say)
            if finished:
                evaluations.measure_last(self._stop_asked.is_set)
            return finished
        finally:
            evaluations.close()

    def _train(self, assignment: Assignment, actor: Any, say: Say) -> bool:
        controller = DriverController(actor, self._runtime.decision_timeout_s)
        restarts = Restarts(assignment.run_dir, self._runtime.max_failures)
        has_spares = self._hardware.keeps_spares and imports_first()
        spares = Spares(self._runtime.spare_after_s if has_spares else None)
        room, position = 0, _position(assignment)
        for number in range(1, 1_000_000):
            wanted = workers_of(assignment.config, position)
            if self._evaluations:
                self._evaluations.pause()
            room, n_workers = self._wait_for_room(wanted, room, say)
            if n_workers is None:
                return False
            spares.prepare(places(ray_nodes(), self._hardware.need, n_workers))
            controller.begin_group()
            group = Group(number, wanted, n_workers, position, self._hardware)
            watch = GroupWatch(controller, group, room, restarts, spares, assignment.config, say)
            end = self._follow(Fit(assignment, group, actor, self._backend), watch, controller)
            room, position = watch.room, watch.position
            controller.free_resources()
            if end.ending is not None and (end.ending != "left" or self._stop_asked.is_set()):
                return end.ending == "finished"
            if end.fatal is not None:
                raise EngineError(end.fatal)
            if self._stop_asked.is_set() and watch.reached_step < 0:
                return False  # they had not begun: nothing is lost
            if self._stop_asked.is_set():
                raise EngineError(f"the workers failed on their way out: {end.error}; the same command goes on from the last checkpoint")
            if end.ending is None and watch.is_restarting:  # a node of theirs is gone, perhaps; their failure was counted
                say(f"the workers could not begin again where they were: {end.error}")
            elif end.ending is None:
                say(restarts.after(watch.reached_step, end.error))
        raise AssertionError("a million groups of workers")

    def _follow(self, fit: Fit, watch: GroupWatch, controller: DriverController) -> GroupEnd:
        """Until the group ends; meanwhile the watch looks for nodes that come and go."""
        fit.start()
        try:
            while fit.is_alive():
                fit.join(timeout=_LOOK_EVERY_S)  # a join without timeout would hold signals back
                watch.look(self._stop_asked.is_set())
                if self._evaluations and watch.all_began:
                    self._evaluations.go_on()
        except BaseException:
            controller.end_fits()  # or the workers would train on without a driver
            controller.free_resources()
            raise
        watch.look(self._stop_asked.is_set())  # its last word
        return fit.end()

    def _wait_for_room(self, wanted: Workers, room_before: int, say: Say) -> tuple[int, int | None]:
        """How many workers the cluster has room for, and how many the next group has; waits while it holds too few. None: a stop was asked
        for meanwhile. `room_before`: with what the group before held, which is not free at once."""
        n_expected = wanted.take(room_before) or 0
        begin_s, said_s = time.monotonic(), -_SAY_EVERY_S
        while not self._stop_asked.is_set():
            room = self._hardware.room(ray_nodes())
            waited_s = time.monotonic() - begin_s
            n_workers = wanted.take(room)
            if n_workers is not None and (n_workers >= n_expected or waited_s > _SETTLE_S):
                return room, n_workers
            if n_workers is None and waited_s > _SETTLE_S and time.monotonic() - said_s >= _SAY_EVERY_S:
                said_s = time.monotonic()
                say(f"waiting: the cluster has room for {room} workers, at least {wanted.low} are needed (runtime.workers)")
            time.sleep(0.2)
        return room_before, None


def _position(assignment: Assignment) -> int:
    """How many changes of the plan lie behind, as the newest checkpoint says."""
    stored = CheckpointStore(assignment.run_dir).all()
    return stored[-1].manifest.position if stored else 0
