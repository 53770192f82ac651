"""The manifest of a checkpoint: everything but tensors that a run needs to go on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from raystage.config.duration import Duration, parse_duration
from raystage.config.names import is_below
from raystage.models.spec import ModelSpec
from raystage.pacing.point import Point
from raystage.pacing.stage import Shape, Taken
from raystage.pacing.state import State
from raystage.training.counters import Counters

SCHEMA_VERSION = 3


@dataclasses.dataclass(frozen=True)
class Manifest:
    """`controller`: its state at its watermark; `unresolved`: the points after it, not yet answered.

    `taken`: changes of the plan behind, by track; `decisions`: the records of all of them; `reason`: why this
    checkpoint was written; `pinned`: never retired; `duration`: the configured one, of which
    `counters` keep shares; `files`: blake2b of each tensor file, by name.
    """

    run_name: str
    attempt: int
    reason: str
    pinned: bool
    spec: ModelSpec
    shape: Shape
    taken: Taken
    counters: Counters
    controller: State
    unresolved: tuple[Point, ...]
    decisions: tuple[dict[str, Any], ...]
    seed: int
    corpus_digest: str
    world_size: int
    mlflow_run_id: str | None
    val_loss: float | None
    duration: str | None = None  # of checkpoints from before it was recorded
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def key(self) -> tuple[int, int, int]:
        """Order of checkpoints: step, then changes behind, then attempt."""
        return (self.counters.step, self.position, self.attempt)

    @property
    def position(self) -> int:
        """How many changes of the plan lie behind."""
        return sum(self.taken)

    def is_end_of(self, duration: Duration) -> bool:
        """Whether a run of this duration is over: one that only has its last step behind has not been validated and recorded to its end."""
        return self.reason == "end" and self.counters_under(duration).progress(duration) >= 1.0

    def counters_under(self, duration: Duration) -> Counters:
        """The counters, where this is the configured duration now."""
        return self.counters.under(parse_duration(self.duration), duration) if self.duration else self.counters

    @property
    def first_bad_step(self) -> int | None:
        """Of the unresolved points, the first that is not finite, and that no rollback has answered yet."""
        ours = (p for p in self.unresolved if p.n_rollbacks == self.counters.n_rollbacks)
        return next((p.step for p in ours if not p.is_finite), None)

    def to_json(self) -> str:
        tree = {
            **dataclasses.asdict(self),
            "counters": self.counters.to_json(),
            "controller": self.controller.to_json(),
            "unresolved": [point.to_json() for point in self.unresolved],
        }
        return json.dumps(tree, indent=1)


def read_manifest(path: Path) -> Manifest:
    """Raises ValueError for a manifest that is no JSON, of another schema or with other fields."""
    try:
        tree = json.loads(path.read_text())
        if tree["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {tree['schema_version']}, this raystage reads {SCHEMA_VERSION}")
        if not isinstance(tree["files"], dict):
            raise TypeError("files is no object")
        if stray := next((name for name in tree["files"] if not is_below(name)), None):
            raise ValueError(f"names a file outside of its folder: {stray!r}")
        if tree.get("duration") is not None:
            parse_duration(tree["duration"])
        return Manifest(
            **{
                **tree,
                "spec": ModelSpec(**tree["spec"]),
                "taken": tuple(tree["taken"]),
                "shape": Shape(**tree["shape"]),
                "counters": Counters.from_json(tree["counters"]),
                "controller": State.from_json(tree["controller"]),
                "unresolved": tuple(Point.from_json(p) for p in tree["unresolved"]),
                "decisions": tuple(tree["decisions"]),
            }
        )
    except (KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ValueError(f"{path}: not a manifest ({type(error).__name__}: {error})") from None
