"""A run's own records through its own controller: the decisions they lead to, against those that were made."""

import dataclasses
import math
from pathlib import Path

from raystage.config import Config, ConfigError, load
from raystage.pacing.controller import observe
from raystage.pacing.point import Action, Check, Decision, Point
from raystage.pacing.policy import Policy
from raystage.pacing.schedule import is_due
from raystage.pacing.stage import Shape, Taken, take
from raystage.pacing.state import State
from raystage.tracking.records import Record, RunRecords
from raystage.training.policy import policy_of

_SLOPE_TOLERANCE = 1e-6  # relative; the wall time in records is rounded


@dataclasses.dataclass(frozen=True)
class Made:
    """One decision, replayed or recorded."""

    effective_step: int
    kind: str
    trigger: str
    slope: float | None

    def __str__(self) -> str:
        slope = "" if self.slope is None else f", slope {self.slope:.4f}"
        return f"{self.kind} at step {self.effective_step} ({self.trigger}{slope})"

    def equals(self, other: "Made") -> bool:
        mine, its = (dataclasses.replace(made, slope=None) for made in (self, other))
        if mine != its or self.slope is None or other.slope is None:
            return mine == its and self.slope == other.slope
        return math.isclose(self.slope, other.slope, rel_tol=_SLOPE_TOLERANCE)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`n_same`: decisions alike from the start; `difference`: the first that is not, in words; None: all are."""

    n_same: int
    n_by_hand: int
    difference: str | None

    def __str__(self) -> str:
        if self.difference is not None:
            return f"different decisions: {self.difference}"
        by_hand = f", beside {self.n_by_hand} made by hand" if self.n_by_hand else ""
        return f"same decisions: {self.n_same}{by_hand}"


def compare_run(folder: Path) -> Comparison:
    """Replays the run in `folder` with its own configuration. Raises ConfigError where its records lack what the controller saw."""
    config, records = load(folder / "config.yaml"), RunRecords.load(folder)
    points = _points(folder, records.train)
    recorded = [record for record in records.decisions if record["effective_step"] >= points[0].step]
    replayed = _replayed(config, points, recorded)
    made = sorted((_made(record) for record in recorded if record["trigger"] != "manual"), key=_when)
    n_by_hand = len(recorded) - len(made)
    for number, (mine, its) in enumerate(zip(replayed, made, strict=False)):
        if not mine.equals(its):
            return Comparison(number, n_by_hand, f"decision {number + 1} was {its}, replayed {mine}")
    n_same = min(len(replayed), len(made))
    if len(replayed) > n_same:
        return Comparison(n_same, n_by_hand, f"the run has no decision {n_same + 1}, replayed {replayed[n_same]}")
    if len(made) > n_same:
        return Comparison(n_same, n_by_hand, f"decision {n_same + 1} was {made[n_same]}, the replay has none")
    return Comparison(n_same, n_by_hand, None)


def _points(folder: Path, train: list[Record]) -> list[Point]:
    if not train:
        raise ConfigError(f"{folder}: holds no training steps yet; 'raystage train' with this name writes them")
    needed = [f.name for f in dataclasses.fields(Point) if f.default is dataclasses.MISSING and f.name != "seconds"] + ["time_s"]
    missing = [name for name in needed if name not in train[0]]
    if missing:
        raise ConfigError(f"{folder}: its records have no {missing[0]}, an earlier raystage wrote them; replay its metrics.jsonl instead")
    return [Point.from_json({**record, "seconds": record["time_s"]}) for record in train]


def _made(record: Record) -> Made:
    return Made(record["effective_step"], record["kind"], record["trigger"], record.get("slope"))


def _replayed(config: Config, points: list[Point], recorded: list[Record]) -> list[Made]:
    """The decisions that the points lead to, in order; those by hand and what a rollback restored are taken from the record."""
    policy = policy_of(config)
    controller, checks = _decided(policy, points)
    by_step: dict[int, list[Record]] = {}
    for record in recorded:
        by_step.setdefault(record["effective_step"], []).append(record)
    replayed = _holds(checks)
    for number, point in enumerate(points):
        step, taken = point.step + 1, point.taken
        there = by_step.get(step, [])
        after = points[number + 1] if number + 1 < len(points) else None
        if after is None and not there:
            continue  # the run ended, or was stopped, before it
        decision = None if any(r["trigger"] == "manual" for r in there) else controller.get(step)
        if decision is not None and not _stands(decision, point):
            decision = None
        decision = _emergency(policy, points, number, config.pacing.guard.non_finite) or decision
        if decision is not None:
            replayed.append(_of(decision))
            taken = _after(policy, decision, there)
        if not (after.held if after else point.held):
            replayed += _scheduled(policy, taken, point, there)
    return sorted(replayed, key=_when)


def _stands(decision: Decision, point: Point) -> bool:
    """Whether nothing has overtaken it: a change, a rollback, or a hold by hand, which holds all but the guard."""
    return decision.stands(point.taken, point.n_rollbacks) and (not point.held or decision.trigger == "guard")


def _when(made: Made) -> tuple[int, bool]:
    """In the order of steps; holds are recorded after what else happens at theirs."""
    return made.effective_step, made.kind == "hold"


def _holds(checks: list[Check]) -> list[Made]:
    """The guard's holds."""
    return [Made(check.step + 1, "hold", "guard", None) for check in checks if check.trouble_begins and not check.fired]


def _decided(policy: Policy, points: list[Point]) -> tuple[dict[int, Decision], list[Check]]:
    """What the controller decides, by effective step, if nothing overrules it; and every check."""
    first, every = points[0], policy.check_every_steps
    begun_tokens = 0.0 if first.step == 1 else first.tokens_seen - (points[1].tokens_seen - first.tokens_seen if len(points) > 1 else 0.0)
    state = State.at(first.taken, first.step - 1, begun_tokens, first.n_rollbacks)
    decided: dict[int, Decision] = {}
    all_checks: list[Check] = []
    interval: list[Point] = []
    for point in points:
        interval.append(point)
        if point.step % every:
            continue
        state, checks = observe(policy, state, interval)
        interval = []
        all_checks += checks
        if any(check.fired for check in checks) and state.pending is not None:
            decided[state.pending.effective_step] = state.pending
    return decided, all_checks


def _emergency(policy: Policy, points: list[Point], number: int, action: Action) -> Decision | None:
    """The rollback of an interval with a loss or gradient that is not finite, which takes effect one interval after its end."""
    every, point = policy.check_every_steps, points[number]
    end = number - every
    if point.step % every or end < 0:
        return None
    interval = points[max(0, end - every + 1) : end + 1]
    if all(math.isfinite(p.loss) and math.isfinite(p.grad_norm) for p in interval) or point.n_rollbacks > interval[-1].n_rollbacks:
        return None
    return Decision(action, point.taken, points[end].step, point.step + 1, "guard")


def _after(policy: Policy, decision: Decision, there: list[Record]) -> Taken:
    """The changes behind once it is carried out; where a rollback led to, only the record knows."""
    if decision.action == "change":
        return take(decision.taken, decision.track)
    shapes = [Shape(**record["to"]) for record in there if record["kind"] == "rollback"]
    restored = policy.plan.taken_at(shapes[0]) if shapes else None
    return decision.taken if restored is None else restored


def _scheduled(policy: Policy, taken: Taken, point: Point, there: list[Record]) -> list[Made]:
    """Changes at a share of the duration that come before the step after `point`; what is done by hand there comes first."""
    if any(record["trigger"] == "manual" for record in there):
        return [_made(record) for record in there if record["trigger"] == "schedule"]
    made: list[Made] = []
    while due := [(t, change) for t, change in policy.plan.heads(taken) if change.at is not None and is_due(point.progress, change.at)]:
        track, change = due[0]
        made.append(Made(point.step + 1, change.record_kind, "schedule", None))
        taken = take(taken, track)
    return made


def _of(decision: Decision) -> Made:
    kind = decision.change.record_kind if decision.change else decision.action
    return Made(decision.effective_step, kind, decision.trigger, decision.slope)
