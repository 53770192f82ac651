"""What the loop needs from outside, as small protocols: records go out, decisions come in."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

from raystage.pacing.point import Check, Point
from raystage.pacing.state import State

# a stop ends the run for now; leaving is for another group of workers to go on
Ask = Literal["stop", "leave"]
Ending = Literal["finished", "stopped", "left"]
Asked = Callable[[int, int], Ask | None]  # told the step just done and how many changes of the plan lie behind; never waits


def nothing_asked(step: int, position: int) -> Ask | None:
    """Of a run that nobody outside has a word for."""
    return None


class Recorder(Protocol):
    """Takes records of rank 0; never blocks for long."""

    def metrics(self, records: list[dict[str, Any]]) -> None: ...

    def decision(self, record: dict[str, Any]) -> None: ...


@dataclasses.dataclass(frozen=True)
class Command:
    """A decision by hand. `what`: the kind of change, where the action leaves it open; `effective_step`: once rank 0 has set it."""

    command_id: int
    action: Literal["raise", "grow", "pause", "resume", "stop"]
    what: str | None = None
    effective_step: int | None = None


class Commands(Protocol):
    """Decisions by hand, in order. They stay for ever, with the step that they took effect at, so that a resumed run repeats them."""

    def all(self) -> list[Command]: ...

    def assign(self, command_id: int, effective_step: int) -> None: ...


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
