"""Which documents are for validation. A document's text alone says so: no order, no copy of it changes the side."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b

DIGEST_BYTES = 16


class Side(Enum):
    TRAIN = "train"
    VALIDATION = "validation"
    DROPPED = "dropped"


SideOf = Callable[[str], Side]


def text_digest(text: str) -> bytes:
    """blake2b of the text in UTF-8, DIGEST_BYTES long."""
    return blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True)
class HoldOut:
    """Holds out the share `fraction` of all different documents, by their hash."""

    fraction: float

    def side(self, text: str) -> Side:
        """TRAIN or VALIDATION."""
        position = int.from_bytes(text_digest(text)) / 256**DIGEST_BYTES
        return Side.VALIDATION if position < self.fraction else Side.TRAIN


@dataclass(frozen=True)
class KeepApart:
    """With validation text of its own: drops the training documents that occur in it, too."""

    validation_digests: frozenset[bytes]

    @classmethod
    def of(cls, validation_texts: Iterable[str]) -> "KeepApart":
        return cls(frozenset(map(text_digest, validation_texts)))

    def side(self, text: str) -> Side:
        """TRAIN or DROPPED."""
        return Side.DROPPED if text_digest(text) in self.validation_digests else Side.TRAIN
