"""Rank 0's side of the decision protocol: points go to the controller, and its word comes back an interval later.

Where there is no remote controller, or it does not answer, rank 0 runs the same pure function itself, so a
decision depends on the losses alone.
"""

from raystage.pacing.controller import observe
from raystage.pacing.point import Check, Decision, Point
from raystage.pacing.policy import Policy
from raystage.pacing.stage import Taken
from raystage.pacing.state import State
from raystage.training.ports import RemoteController


class Coordinator:
    """`state`: the controller's, as of the last answer; `unresolved`: the points sent since."""

    def __init__(self, policy: Policy, state: State, unresolved: tuple[Point, ...], remote: RemoteController | None = None) -> None:
        self.policy = policy
        self.state = state
        self.unresolved = unresolved
        self._remote = remote
        if remote is not None:
            remote.restore(state)
            remote.start(list(unresolved))

    def send(self, points: list[Point]) -> None:
        """Hands on the points since the last call; does not wait."""
        assert not self.unresolved, "the last call has not been resolved"
        self.unresolved = tuple(points)
        if self._remote is not None:
            self._remote.start(points)

    def resolve(self) -> list[Check]:
        """The checks among the points sent; `state` is then the state after them."""
        if not self.unresolved:
            return []
        answer = self._remote.reply() if self._remote is not None else None
        if answer is None or answer[0].watermark != self.unresolved[-1].step:
            answer = observe(self.policy, self.state, self.unresolved)
            if self._remote is not None:
                self._remote.restore(answer[0])
        self.state, checks = answer
        self.unresolved = ()
        return checks

    def due(self, step: int, taken: Taken, n_rollbacks: int = 0) -> Decision | None:
        """The decision that takes effect at `step` with these changes and rollbacks behind, if there is one.

        The controller learns from later points that its decision was applied; until then `taken` tells.
        """
        pending = self.state.pending
        return pending if pending is not None and pending.effective_step == step and pending.stands(taken, n_rollbacks) else None
