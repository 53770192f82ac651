"""The account of tokens: what became of every token of the corpus that the run has passed."""

import dataclasses

from raystage.report.cited import Cited
from raystage.tracking.records import Record


@dataclasses.dataclass(frozen=True)
class Account:
    """Target tokens. `passed`: of the corpus, in its order; it is the sum of trained, dropped, waiting and skipped.

    `trained`: at least once; `repeated`: a second time, as heads of rows that waited; `undone`: seen, and taken back by rollbacks.
    """

    passed: int
    trained: int
    dropped: int
    waiting: int
    skipped: int
    recycled: int
    repeated: int
    undone: int

    @property
    def is_plain(self) -> bool:
        """Every token trained once."""
        return self.passed == self.trained and not self.repeated and not self.undone


def account_of(record: Record) -> Account:
    """The account after the step of a train record."""

    def tokens(what: str) -> int:
        return int(record.get(f"tokens_{what}", 0))

    dropped, waiting, skipped, repeated, undone = (tokens(what) for what in ("dropped", "waiting", "skipped", "repeated", "undone"))
    trained = record["tokens_seen"] - undone - repeated
    passed = trained + dropped + waiting + skipped
    return Account(passed, trained, dropped, waiting, skipped, tokens("recycled"), repeated, undone)


def cited_account(account: Account, last_step: int) -> dict[str, Cited]:
    """The same by name, each with the keys of the last training record that it is from."""
    made = {
        "passed": "tokens_seen - tokens_undone - tokens_repeated + tokens_dropped + tokens_waiting + tokens_skipped",
        "trained": "tokens_seen - tokens_undone - tokens_repeated",
    }
    return {
        name: Cited(value, "train", made.get(name, f"tokens_{name}"), (last_step,)) for name, value in dataclasses.asdict(account).items()
    }
