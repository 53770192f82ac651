"""What the driver needs of an engine."""

from collections.abc import Callable
from typing import Protocol

from raystage.config.redact import redacted
from raystage.runtime.assignment import Assignment


class EngineError(RuntimeError):
    """Training failed; the message is the cause in one line, without secrets of addresses."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class FatalError(RuntimeError):
    """What every further group of workers would meet again; the message is the cause in one line."""


class Engine(Protocol):
    def train(self, assignment: Assignment, say: Callable[[str], None]) -> bool:
        """Trains to the end or to a requested stop; false for a stop. Says a line where workers come and go. Raises EngineError."""
        ...

    def request_stop(self) -> None:
        """Asks for a stop at the next boundary, with a checkpoint. May be called from a signal handler."""
        ...
