"""A number of the report together with the records that it was taken from."""

import dataclasses
from collections.abc import Sequence

from raystage.report.columns import Columns
from raystage.tracking.records import METRICS_FILE


@dataclasses.dataclass(frozen=True)
class Cited:
    """`value`: None where the records do not say. `how`: what was done with `key` of the records of these `steps`; empty: nothing."""

    value: float | None
    kind: str
    key: str
    steps: tuple[int, ...]
    how: str = ""
    file: str = METRICS_FILE

    @property
    def source(self) -> str:
        """One line: the file, the records, the key, what was done with it."""
        which = f"{self.kind} record" + ("" if len(self.steps) == 1 else "s")
        steps = (
            f" of step {self.steps[0]}" if len(self.steps) == 1 else f" of steps {', '.join(map(str, self.steps))}" if self.steps else ""
        )
        return f"{self.file}, {which}{steps}: {self.key}" + (f"; {self.how}" if self.how else "")

    def to_json(self) -> dict[str, object]:
        """For the page's data and report.json."""
        return dataclasses.asdict(self)


def at(columns: Columns, position: int, key: str, how: str = "") -> Cited:
    """One key of one record."""
    value = float(columns[key][position])
    return Cited(None if value != value else value, columns.kind, key, (columns.step(position),), how)


def among(columns: Columns, key: str, how: str, value: float | None) -> Cited:
    """A value over all records of the kind, from the first step to the last."""
    steps = (columns.step(0), columns.step(-1)) if len(columns) else ()
    return Cited(value, columns.kind, key, steps, how)


def derived(value: float | None, of: Sequence[Cited], key: str, how: str) -> Cited:
    """A value made of others."""
    return Cited(value, of[0].kind, key, tuple(dict.fromkeys(step for cited in of for step in cited.steps)), how)
