"""What a follower feeds: anything that takes records as they come."""

from collections.abc import Sequence
from typing import Protocol

from raystage.config.redact import redacted
from raystage.tracking.records import Record


class SinkError(RuntimeError):
    """The sink cannot take these records now; the follower keeps them and offers them again. Its text has no secrets of addresses."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class Sink(Protocol):
    @property
    def name(self) -> str:
        """How warnings call it."""
        ...

    def consume(self, records: Sequence[Record], decisions: Sequence[Record]) -> None:
        """Takes new records in file order. Raises SinkError to be offered all of them again later."""
        ...
