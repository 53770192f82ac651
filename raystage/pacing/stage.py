"""Stages: the shape that training has, the changes between shapes, and the plan that lists them."""

import dataclasses
from collections.abc import Mapping, Sequence

Kind = str  # "length", "depth", "width", "batch", or several of them at once, joined by "+"
Taken = tuple[int, ...]

KINDS = ("length", "depth", "width", "batch")
BOTH = "depth+width"
_FIELDS = {"length": "seq_len_tokens", "depth": "n_layer", "width": "d_model", "batch": "batch_tokens"}
_RECORDED = {"length": "raise_seq_len", "depth": "grow_depth", "width": "grow_width", "batch": "raise_batch"}


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sequence length [tokens], depth [layers] and width [channels] of a stage, and its batch [tokens a step at full context]."""

    seq_len_tokens: int
    n_layer: int
    d_model: int
    batch_tokens: int

    def after(self, change: "Change") -> "Shape":
        return dataclasses.replace(self, **change.values())


@dataclasses.dataclass(frozen=True)
class Change:
    """One step of a plan: a new length, depth, width or batch, or several at once. None: stays.

    `at`: the share of the run's duration at which it happens; None: when the loss says so.
    """

    seq_len_tokens: int | None = None
    n_layer: int | None = None
    d_model: int | None = None
    batch_tokens: int | None = None
    at: float | None = None

    def values(self) -> dict[str, int]:
        """The new values by the field of Shape."""
        fields = {field: getattr(self, field) for field in _FIELDS.values()}
        return {field: value for field, value in fields.items() if value is not None}

    @property
    def kind(self) -> Kind:
        return "+".join(kind for kind, field in _FIELDS.items() if getattr(self, field) is not None)

    @property
    def threshold_kinds(self) -> tuple[Kind, ...]:
        """Whose thresholds it waits for; depth and width together have their own."""
        return ("both",) if self.kind == BOTH else tuple(self.kind.split("+"))

    @property
    def grows(self) -> bool:
        """Whether the model gets larger."""
        return self.n_layer is not None or self.d_model is not None

    @property
    def record_kind(self) -> str:
        """What the record of a decision calls it."""
        if self.kind == BOTH:
            return "grow_both"
        return "+".join(_RECORDED[kind] for kind in self.kind.split("+"))

    def __str__(self) -> str:
        return " and ".join(f"{kind} {getattr(self, _FIELDS[kind])}" for kind in self.kind.split("+"))


@dataclasses.dataclass(frozen=True)
class Plan:
    """The first stage's shape, and tracks of changes: within a track they come in order, the heads of several tracks compete.

    `taken` counts the changes of each track that lie behind, refused ones included.
    """

    start: Shape
    tracks: tuple[tuple[Change, ...], ...]

    @property
    def untouched(self) -> Taken:
        return (0,) * len(self.tracks)

    @property
    def changes(self) -> tuple[Change, ...]:
        """All of them, one track after the other."""
        return tuple(change for track in self.tracks for change in track)

    def heads(self, taken: Taken) -> list[tuple[int, Change]]:
        """The changes that may come next, each with its track."""
        return [(number, track[n]) for number, (track, n) in enumerate(zip(self.tracks, taken, strict=True)) if n < len(track)]

    def n_by_slope(self, taken: Taken) -> int:
        """How many changes are left that wait for the loss."""
        return sum(change.at is None for track, n in zip(self.tracks, taken, strict=True) for change in track[n:])

    def shapes(self) -> list[Shape]:
        """The shape of every stage, if no change is refused and the tracks come one after the other."""
        shapes = [self.start]
        for change in self.changes:
            shapes.append(shapes[-1].after(change))
        return shapes

    def taken_at(self, shape: Shape) -> Taken | None:
        """The changes that lie behind a stage of this shape; None where it is no stage of this plan."""
        taken, reached = [], self.start
        for track in self.tracks:
            behind = [change for change in track if _is_behind(change, shape)]
            taken.append(len(behind))
            for change in behind:
                reached = reached.after(change)
        return tuple(taken) if reached == shape else None


def take(taken: Taken, track: int) -> Taken:
    """`taken` with one more change of that track behind."""
    return (*taken[:track], taken[track] + 1, *taken[track + 1 :])


def make_track(values: Mapping[str, Sequence[int]], order: Sequence[Kind], at: Sequence[float] | None = None) -> tuple[Change, ...]:
    """The changes to `values` (by kind, in rising order) in this order of kinds; `at`: a share of the duration for each.

    Raises ValueError when the order does not take each value exactly once.
    """
    remaining = {kind: list(given) for kind, given in values.items()}
    kinds = [kind.split("+") for kind in order]
    if any(sum(kind in parts for parts in kinds) != len(given) for kind, given in remaining.items()):
        raise ValueError(f"order {list(order)} does not take each value exactly once")
    shares: Sequence[float | None] = at or [None] * len(kinds)
    return tuple(
        Change(**{_FIELDS[kind]: remaining[kind].pop(0) for kind in parts}, at=share) for parts, share in zip(kinds, shares, strict=True)
    )


def _is_behind(change: Change, shape: Shape) -> bool:
    return all(getattr(shape, field) >= value for field, value in change.values().items())
