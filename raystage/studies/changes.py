"""When an arm changed its stage, and why, in a few words over its seeds. Pure."""

from collections.abc import Sequence
from itertools import zip_longest

from raystage.tracking.decision_text import label
from raystage.tracking.records import Record


def changes_of(decisions: Sequence[Sequence[Record]], tokens: Sequence[tuple[float, float]]) -> str:
    """Like "length 32→64 12% (slope), depth 1→4 48 to 61% (slope, last call)"; refused changes and rollbacks are among them.

    `decisions`: of each seed, in their order; `tokens`: that each run began with, and has seen since: places are shares of these.
    """
    told = [
        [(label(each), _cause(each), (each["tokens_seen"] - base) / whole) for each in run]
        for run, (base, whole) in zip(decisions, tokens, strict=True)
    ]
    parts = []
    for same in zip_longest(*told):
        known = [each for each in same if each is not None]
        names, triggers = (list(dict.fromkeys(column)) for column in list(zip(*known, strict=True))[:2])
        low, high = f"{min(place for *_, place in known):.0%}", f"{max(place for *_, place in known):.0%}"
        where = low if low == high else f"{low[:-1]} to {high}"
        missing = "" if len(known) == len(same) else f", {len(known)} of {len(same)} seeds"
        parts.append(f"{' or '.join(names)} {where} ({', '.join(triggers)}{missing})")
    return ", ".join(parts)


def _cause(decision: Record) -> str:
    """The trigger; of a stage that its time ended, which time, where the record says so: early ones do not."""
    trigger = str(decision["trigger"])
    return str(decision.get("reason") or trigger) if trigger == "max_dwell" else trigger
