"""What the loop needs from outside, as small protocols: records go out, decisions come in."""

from typing import Any, Protocol

from raystage.pacing.controller import Check, Point, State


class Recorder(Protocol):
    """Takes records of rank 0; never blocks for long."""

    def metric(self, record: dict[str, Any]) -> None: ...

    def decision(self, record: dict[str, Any]) -> None: ...


class RemoteController(Protocol):
    """A controller that runs elsewhere; it may be slow, dead, or back without its memory."""

    def start(self, points: list[Point]) -> None:
        """Sends points without waiting; one call is outstanding at a time."""
        ...

    def reply(self) -> tuple[State, list[Check]] | None:
        """The answer to the last call, or None when none came in bounded time."""
        ...

    def restore(self, state: State) -> None:
        """Puts the remote state right, without waiting."""
        ...
