"""What the driver needs of an engine."""

from typing import Protocol

from raystage.runtime.worker import Assignment


class EngineError(RuntimeError):
    """Training failed; the message is the cause in one line."""


class Engine(Protocol):
    def train(self, assignment: Assignment) -> bool:
        """Trains to the end or to a requested stop; false for a stop. Raises EngineError."""
        ...

    def request_stop(self) -> None:
        """Asks for a stop at the next boundary, with a checkpoint. May be called from a signal handler."""
        ...
