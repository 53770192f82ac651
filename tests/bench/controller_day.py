"""A run on many workers as its controller sees it: all that rank 0, the workers and the driver call, in this process.

Calls go to the shell that is the actor through pickle, as Ray's do. Losses are recorded ones, a point a step, a step a second.
"""

import dataclasses
import pickle
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from raystage.pacing.point import Check, Decision, Point
from raystage.pacing.policy import Policy
from raystage.pacing.state import State
from raystage.runtime.controller_actor import ControllerShell, Worker
from raystage.training.coordinator import Coordinator

_ENVIRONMENT = '{"env_vars": {' + ", ".join(f'"NAME_{i}": "{"value" * 8}"' for i in range(6)) + "}}"  # 400 bytes
_WORKERS_A_NODE = 8
Answer = tuple[State, list[Check]]


@dataclasses.dataclass(frozen=True)
class Troubles:
    """Chances an interval. Of a batch: never to arrive, to be answered too late, to come twice and an old one again, to come in pieces out
    of order; of the actor to be killed; of the group of workers to fail, and another to go on from the last checkpoint."""

    lost: float = 0.0
    late: float = 0.0
    doubled: float = 0.0
    shuffled: float = 0.0
    actor_killed: float = 0.0
    group_failed: float = 0.0


class Actor:
    """The shell behind its calls; `seconds` of CPU time by method, pickling on the actor's side included, and `calls`, kills too."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self._shell = policy, ControllerShell(policy)
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()

    def kill(self) -> None:
        """Ray starts it again, without its memory."""
        self._shell = ControllerShell(self._policy)
        self.calls["kill"] += 1

    def call(self, method: str, *arguments: Any) -> Any:
        sent = pickle.dumps(arguments)
        begin_s = time.process_time()
        answer = pickle.dumps(getattr(self._shell, method)(*pickle.loads(sent)))
        self.seconds[method] += time.process_time() - begin_s
        self.calls[method] += 1
        return pickle.loads(answer)

    def n_bytes(self) -> int:
        """All that the shell holds, pickled."""
        return len(pickle.dumps(vars(self._shell)))


class _TroubledRemote:
    """Rank 0's handle, by a line on which batches get lost, doubled and out of order."""

    def __init__(self, actor: Actor, attempt: int, troubles: Troubles, chances: random.Random) -> None:
        self._actor, self._attempt, self._troubles, self._chances = actor, attempt, troubles, chances
        self._sent: list[Point] = []
        self._old: list[Point] = []

    def start(self, points: list[Point]) -> None:
        self._old, self._sent = self._sent, points

    def reply(self) -> Answer | None:
        if self._happens(self._troubles.actor_killed):
            self._actor.kill()
            return None
        if self._happens(self._troubles.lost):
            return None
        answer = self._observe(self._in_pieces() if self._happens(self._troubles.shuffled) else [self._sent])
        if self._happens(self._troubles.doubled):
            self._observe([self._sent, self._old])
        return None if self._happens(self._troubles.late) else answer

    def restore(self, state: State) -> None:
        self._actor.call("restore", self._attempt, state)

    def _happens(self, chance: float) -> bool:
        return self._chances.random() < chance

    def _in_pieces(self) -> list[list[Point]]:
        pieces = [self._sent[i : i + 3] for i in range(0, len(self._sent), 3)]
        self._chances.shuffle(pieces)
        return pieces

    def _observe(self, batches: Sequence[list[Point]]) -> Answer:
        checks: list[Check] = []
        for batch in batches:
            state, due = self._actor.call("observe", self._attempt, batch)
            checks += due
        return state, checks


@dataclasses.dataclass
class Played:
    """What came of it: decisions in the order of their effect, checks, the last state; `n_bytes`: the actor's, as often as was looked."""

    decisions: list[Decision] = dataclasses.field(default_factory=list)
    checks: list[Check] = dataclasses.field(default_factory=list)
    state: State | None = None
    n_groups: int = 0
    n_bytes: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    """Where a group begins: points behind, the controller's state, points without an answer; decisions and checks by then."""

    n_points: int
    state: State
    unresolved: tuple[Point, ...]
    n_decisions: int
    n_checks: int


class Day:
    """Plays recorded `points` to an actor; a checkpoint every `save_every` intervals, a look of the driver every `look_every` steps."""

    def __init__(
        self, policy: Policy, points: Sequence[Point], n_workers: int, troubles: Troubles, save_every: int, look_every: int
    ) -> None:
        self._policy, self._points, self._n_workers, self._troubles = policy, points, n_workers, troubles
        self._save_every, self._look_every = save_every, look_every
        self._chances = random.Random(1)
        self.actor = Actor(policy)
        self.played = Played()
        self._saved = _Checkpoint(0, State.at(policy.plan.untouched), (), 0, 0)
        self._workers: dict[int, Worker] = {}
        self._version, self._heard = 0, self._workers

    def play(self) -> Played:
        coordinator, n_points = self._begin_group()
        every = self._policy.check_every_steps
        while n_points < len(self._points):
            if self._chances.random() < self._troubles.group_failed:
                coordinator, n_points = self._begin_group()
            interval = list(self._points[n_points : n_points + every])
            self.played.checks += coordinator.resolve()
            if decision := coordinator.due(interval[-1].step + 1, interval[-1].taken):
                self.played.decisions.append(decision)
            coordinator.send(interval)
            n_points += len(interval)
            self._look(interval[-1])
            if n_points % (every * self._save_every) == 0:
                self._save(coordinator, n_points)
        self.played.checks += coordinator.resolve()
        self.played.state = coordinator.state
        return self.played

    def _begin_group(self) -> tuple[Coordinator, int]:
        """All workers are new, and say so; rank 0 goes on from the checkpoint. A word of the attempt before is refused."""
        played, saved = self.played, self._saved
        played.n_groups += 1
        self.actor.call("begin_group")
        self._workers = {rank: Worker(f"{rank // _WORKERS_A_NODE:056x}", 1000 + rank, _ENVIRONMENT) for rank in range(self._n_workers)}
        for rank, worker in self._workers.items():
            self.actor.call("join", rank, worker)
        del played.decisions[saved.n_decisions :], played.checks[saved.n_checks :]
        remote = _TroubledRemote(self.actor, played.n_groups, self._troubles, self._chances)
        coordinator = Coordinator(self._policy, saved.state, saved.unresolved, remote)
        try:
            self.actor.call("observe", played.n_groups - 1, list(self._points[: saved.n_points + 1]))
        except ValueError:
            return coordinator, saved.n_points
        raise AssertionError("an attempt that has been replaced was heard")

    def _look(self, newest: Point) -> None:
        """Rank 0 tells where it is, the driver asks; both do so twice a second, which is sampled here."""
        if newest.step % self._look_every == 0:
            self.actor.call("asked", newest.step, sum(newest.taken))
            word = self.actor.call("ask", None, self._version)
            self._version, self._heard = word.version, self._heard if word.workers is None else word.workers
            if word.has_forgotten:
                self.actor.call("remind", self._workers)
            else:
                assert self._heard == self._workers
            self.played.n_bytes.append(self.actor.n_bytes())

    def _save(self, coordinator: Coordinator, n_points: int) -> None:
        played = self.played
        self._saved = _Checkpoint(n_points, coordinator.state, coordinator.unresolved, len(played.decisions), len(played.checks))
