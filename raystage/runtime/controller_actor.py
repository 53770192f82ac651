"""The controller as a Ray actor: a shell around the pure function, and the two handles on it, rank 0's and the driver's."""

import contextlib
import dataclasses
import os
import time
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raystage.data.progress import Progress
from raystage.pacing.controller import observe
from raystage.pacing.point import Check, Point
from raystage.pacing.policy import Policy
from raystage.pacing.state import State
from raystage.runtime.ray_actors import end_fits, free_resources, kill_train_workers
from raystage.training.ports import Ask

_ASK_EVERY_S = 0.5
_ALIVE_EVERY_S = 10.0
_JOIN_TRIES, _JOIN_TIMEOUT_S = 20, 10


@dataclasses.dataclass(frozen=True)
class Word:
    """The last that was heard of a group of workers: the step that rank 0 has done, the changes behind, and how long ago [s].

    `failures`: of workers that began again at once: the step they had come to, and why. `workers`: those that have begun, by rank; None:
    the same as of the `version` that the driver has heard. `has_forgotten`: the actor is new, and does not know who trains.
    """

    step: int
    position: int
    age_s: float
    failures: tuple[tuple[int, str], ...]
    workers: dict[int, "Worker"] | None
    version: int
    has_forgotten: bool


@dataclasses.dataclass(frozen=True)
class Worker:
    """Where a worker is. `environment`: its runtime environment, in Ray's spelling."""

    node_id: str
    process_id: int
    environment: str

    @staticmethod
    def here() -> "Worker":
        """This process."""
        context = ray.get_runtime_context()
        return Worker(context.get_node_id(), os.getpid(), context.get_runtime_env_string())


class ControllerShell:
    """Holds the controller's state between calls, and what the driver asks of rank 0. What it forgets by dying, they tell it again."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._state = State.at(policy.plan.untouched)
        self._attempt = 0
        self._ask: Ask | None = None
        self._step, self._position, self._heard_s = -1, 0, time.monotonic()
        self._has_forgotten = True  # until a group begins, or the driver tells of the one that trains
        self._know({})
        self._failed_step = -1
        self._failures: tuple[tuple[int, str], ...] = ()

    def restore(self, attempt: int, state: State) -> None:
        """Takes rank 0's word for the state; earlier attempts are fenced off from then on."""
        if attempt >= self._attempt:
            self._attempt, self._state = attempt, state

    def observe(self, attempt: int, points: list[Point]) -> tuple[State, list[Check]]:
        """The state and the checks after `points`."""
        if attempt < self._attempt:
            raise ValueError(f"attempt {attempt} has been replaced by attempt {self._attempt}")
        self._state, checks = observe(self._policy, self._state, points)
        return self._state, checks

    def asked(self, step: int, position: int) -> Ask | None:
        """What the driver asks of the workers; tells it how far they are."""
        self._step, self._position, self._heard_s = step, position, time.monotonic()
        return self._ask

    def ask(self, ask: Ask | None, version: int) -> Word:
        """Sets what is asked; returns what was last heard. `version`: of the workers that the driver has heard of."""
        self._ask = ask
        workers = None if version == self._version else self._workers  # a thousand of them are 500 kB
        age_s = time.monotonic() - self._heard_s
        return Word(self._step, self._position, age_s, self._failures, workers, self._version, self._has_forgotten)

    def remind(self, workers: dict[int, Worker]) -> None:
        """The driver tells of the workers that train, to an actor that has forgotten them."""
        if self._has_forgotten:
            self._know({**workers, **self._workers})
            self._has_forgotten = False

    def begin_group(self) -> None:
        """The workers of a new group are on their way."""
        self._failures = ()
        self._await_workers()

    def failed(self, error: str) -> bool:
        """The group has failed. Whether it may begin again as it was: it came further than any before, and nobody asked it to end."""
        may = self._step > self._failed_step and self._ask is None
        self._failed_step = max(self._failed_step, self._step)
        if may:
            self._failures += ((self._step, error),)
            self._await_workers()
        return may

    def _await_workers(self) -> None:
        self._know({})
        self._step, self._heard_s, self._has_forgotten = -1, time.monotonic(), False

    def _know(self, workers: dict[int, Worker]) -> None:
        self._workers = workers
        self._version = time.time_ns()  # another one than in any life before

    def join(self, rank: int, worker: Worker) -> None:
        """A worker has begun, or says that it still gets ready."""
        if self._workers.get(rank) != worker:
            self._know({**self._workers, rank: worker})
        self._heard_s = time.monotonic()

    def workers(self) -> dict[int, Worker]:
        """Those of the group that have begun, by rank."""
        return self._workers


def controller_name(run_name: str) -> str:
    """Of the actor of a run that this process drives."""
    return f"raystage-controller-{run_name}-{os.getpid()}"


def start_controller(name: str, policy: Policy) -> Any:
    """A controller actor that takes no CPU and is started again whenever it dies."""
    # beside the driver, without which it ends, and which lives where nobody takes machines away; soft, Ray would still spread it
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(ControllerShell).options(name=name, num_cpus=0, max_restarts=-1, scheduling_strategy=here)
    return actor.remote(policy)


def join(actor: Any, rank: int, worker: Worker) -> None:
    """A worker tells that it has begun, and again where the actor dies over it."""
    for _ in range(_JOIN_TRIES):
        with contextlib.suppress(RayError):
            ray.get(actor.join.remote(rank, worker), timeout=_JOIN_TIMEOUT_S)
            return
        time.sleep(_ASK_EVERY_S)


def signs_of_life(actor: Any, rank: int) -> Progress:
    """Hears of what a worker fetches before its first step, and tells that it is there still: that takes as long as it takes."""
    here, told_s = Worker.here(), time.monotonic()

    def progress(label: str, done: int, total: int | None, unit: str = "bytes") -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= _ALIVE_EVERY_S:
            told_s = time.monotonic()
            actor.join.remote(rank, here)  # nobody waits for the answer

    return progress


class ActorController:
    """Rank 0's side: calls without waiting, answers in bounded time."""

    def __init__(self, actor: Any, attempt: int, timeout_s: float) -> None:
        self._actor, self._attempt, self._timeout_s = actor, attempt, timeout_s
        self._call: Any = None
        self._question: Any = None
        self._asked_s, self._position = -_ASK_EVERY_S, -1
        self._ask: Ask | None = None

    def start(self, points: list[Point]) -> None:
        self._call = self._actor.observe.remote(self._attempt, points)

    def reply(self) -> tuple[State, list[Check]] | None:
        try:
            state, checks = ray.get(self._call, timeout=self._timeout_s)
        except RayError:  # dead, restarting, slow or fenced: rank 0 decides by itself
            return None
        return state, checks

    def restore(self, state: State) -> None:
        self._actor.restore.remote(self._attempt, state)

    def asked(self, step: int, position: int) -> Ask | None:
        """What was asked when last heard; puts the question again without waiting."""
        if self._question is not None and ray.wait([self._question], timeout=0)[0]:
            with contextlib.suppress(RayError):
                self._ask = ray.get(self._question)
            self._question = None
        is_time = self._question is None and time.monotonic() - self._asked_s >= _ASK_EVERY_S
        if is_time or position != self._position:  # a new stage is told at once: the driver may need other workers for it
            self._asked_s, self._position = time.monotonic(), position
            self._question = self._actor.asked.remote(step, position)
        return self._ask


class DriverController:
    """The driver's side. An actor that is dead for the moment answers nothing, and is asked again."""

    def __init__(self, actor: Any, timeout_s: float) -> None:
        self._actor, self._timeout_s = actor, timeout_s
        self._version = 0

    def ask(self, ask: Ask | None, workers: dict[int, Worker]) -> Word | None:
        """`workers`: that the driver knows, for an actor that has forgotten them."""
        word: Word | None = self._call(self._actor.ask, ask, self._version)
        if word is not None:
            self._version = word.version
            if word.has_forgotten and workers:
                self._call(self._actor.remind, workers)
        return word

    def begin_group(self) -> None:
        self._call(self._actor.ask, None, self._version)
        self._call(self._actor.begin_group)

    def kill_workers(self) -> int:
        """Those of Ray Train that this process has started; how many are known to have ended."""
        try:
            return kill_train_workers(self._actor)
        except RayError:
            return 0

    def end_fits(self) -> None:
        """Those that this process has started."""
        with contextlib.suppress(RayError):  # the cluster is gone, and they with it
            end_fits(self._actor)

    def free_resources(self) -> None:
        """What fits that are over still hold."""
        with contextlib.suppress(RayError):
            free_resources(self._actor)

    def _call(self, method: Any, *arguments: Any) -> Any:
        try:
            return ray.get(method.remote(*arguments), timeout=self._timeout_s)
        except RayError:
            return None
