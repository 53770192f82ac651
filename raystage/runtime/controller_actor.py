"""The controller as a Ray actor: a shell around the pure function, and rank 0's handle on it."""

from typing import Any

import ray
from ray.exceptions import RayError

from raystage.pacing.controller import observe
from raystage.pacing.point import Check, Point
from raystage.pacing.policy import Policy
from raystage.pacing.state import State


class ControllerShell:
    """Holds the controller's state between calls. What it forgets by dying, rank 0 restores."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._state = State.at(policy.plan.untouched)
        self._attempt = 0
        self._stop = False

    def restore(self, attempt: int, state: State) -> None:
        """Takes rank 0's word for the state; earlier attempts are fenced off from then on."""
        if attempt >= self._attempt:
            self._attempt, self._state = attempt, state

    def observe(self, attempt: int, points: list[Point]) -> tuple[State, list[Check], bool]:
        """The state and the checks after `points`, and whether a stop has been asked for."""
        if attempt < self._attempt:
            raise ValueError(f"attempt {attempt} has been replaced by attempt {self._attempt}")
        self._state, checks = observe(self._policy, self._state, points)
        return self._state, checks, self._stop

    def request_stop(self) -> None:
        self._stop = True


def start_controller(name: str, policy: Policy) -> Any:
    """A controller actor that takes no CPU and is started again whenever it dies."""
    actor = ray.remote(ControllerShell).options(name=name, num_cpus=0, max_restarts=-1)
    return actor.remote(policy)


class ActorController:
    """Rank 0's side: calls without waiting, answers in bounded time."""

    def __init__(self, actor: Any, attempt: int, timeout_s: float) -> None:
        self._actor, self._attempt, self._timeout_s = actor, attempt, timeout_s
        self._call: Any = None
        self.stop_requested = False

    def start(self, points: list[Point]) -> None:
        self._call = self._actor.observe.remote(self._attempt, points)

    def reply(self) -> tuple[State, list[Check]] | None:
        try:
            state, checks, self.stop_requested = ray.get(self._call, timeout=self._timeout_s)
        except RayError:  # dead, restarting, slow or fenced: rank 0 decides by itself
            return None
        return state, checks

    def restore(self, state: State) -> None:
        self._actor.restore.remote(self._attempt, state)
