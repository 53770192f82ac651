"""failures.jsonl of a run folder: which worker failed at which step, as the worker itself tells it before it dies."""

import contextlib
import dataclasses
import json
from pathlib import Path

from raystage.tracking.records import parse_line

FAILURES_FILE = "failures.jsonl"
_OF_PEERS = ("gloo", "NCCL", "ProcessGroup", "Connection closed by peer", "Connection reset by peer", "Connection refused")
_MAX_SHOWN = 300  # characters of an error


@dataclasses.dataclass(frozen=True)
class Failure:
    """`step`: that was trained; `rows`: of the corpus, in its batch; `error`: in one line."""

    attempt: int
    rank: int
    step: int
    rows: tuple[int, ...]
    error: str

    def __str__(self) -> str:
        return f"worker {self.rank} at step {self.step}: {self.error}"


def note_failure(run_dir: Path, attempt: int, rank: int, where: tuple[int, list[int]], error: Exception) -> None:
    """Adds a line; several workers may do so at once."""
    first_line = (str(error).strip() or "no message").splitlines()[0][:_MAX_SHOWN]
    record = {"attempt": attempt, "rank": rank, "step": where[0], "rows": where[1], "error": f"{type(error).__name__}: {first_line}"}
    with contextlib.suppress(OSError), (run_dir / FAILURES_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def failures_of(run_dir: Path) -> list[Failure]:
    """Every failure noted, in order."""
    path = run_dir / FAILURES_FILE
    records = [parse_line(line) for line in path.read_bytes().split(b"\n")] if path.exists() else []
    return [Failure(**{**record, "rows": tuple(record["rows"])}) for record in records if record]


def cause(failures: list[Failure]) -> Failure | None:
    """The first failure that is a worker's own; None where all of them follow from a peer that is gone without a word."""
    return next((failure for failure in failures if not is_of_peers(failure.error)), None)


def is_of_peers(error: str) -> bool:
    """Whether it tells of a broken connection to another worker."""
    return any(word in error for word in _OF_PEERS)
