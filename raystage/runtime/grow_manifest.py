"""The manifest of a grown checkpoint: where training goes on from it."""

import dataclasses
from pathlib import Path
from typing import Any

from raystage.config import ConfigError, load
from raystage.config.duration import parse_duration
from raystage.config.grow import Target
from raystage.models.spec import ModelSpec
from raystage.pacing.stage import Change
from raystage.pacing.state import State
from raystage.training.manifest import Manifest


def duration_of(checkpoint: Path, target: Target) -> str:
    """The duration that the learning rate's position is counted in. Raises ConfigError where nobody says it."""
    if target.duration is not None:
        return target.duration
    config = checkpoint.absolute().parent.parent / "config.yaml"
    if not config.is_file():
        raise ConfigError(
            f"growth.duration=null: {checkpoint} lies outside its run folder; give training.duration of the run that goes on from it, "
            "like growth.duration='2e9 tokens'"
        )
    return load(config).training.duration


def grown_manifest(
    before: Manifest, spec: ModelSpec, target: Target, duration: str, probe_losses: tuple[float, float], preserves: bool
) -> Manifest:
    """`before` at the sizes of `spec`: its counters put back by rho, the growth among its decisions, and a new stage begun."""
    change = _change(before.spec, spec)
    shape = before.shape.after(change)
    progress = before.counters.progress(parse_duration(duration))
    counters = before.counters.after_growth(change, before.shape, target, progress)
    record: dict[str, Any] = {
        "decision_id": 1 + max((record["decision_id"] for record in before.decisions), default=0),
        "kind": change.record_kind,
        "from": dataclasses.asdict(before.shape),
        "to": dataclasses.asdict(shape),
        "check_step": counters.step,
        "effective_step": counters.step + 1,
        "tokens_seen": counters.tokens_seen,
        "flops": counters.flops,
        "time_s": counters.elapsed_s,
        "trigger": "manual",
        "slope": None,
        "threshold": None,
        "val_loss": before.val_loss,
        "outcome": "applied",
        "probe_before": probe_losses[0],
        "probe_after": probe_losses[1],
        "lr_peak": None,
        "lr_position": progress - counters.lr_shift,
        "rewarm_steps": None,
    }
    taken = (before.position + 1,)  # of no plan: the configuration that trains on finds the stage by its shape
    return dataclasses.replace(
        before,
        reason="grown",
        pinned=False,
        spec=spec,
        shape=shape,
        taken=taken,
        counters=counters,
        controller=State.at(taken, counters.step, counters.tokens_seen),
        unresolved=(),
        decisions=(*before.decisions, record),
        mlflow_run_id=None,
        val_loss=before.val_loss if preserves else None,
        files={},
    )


def _change(before: ModelSpec, after: ModelSpec) -> Change:
    """Layers and channels; heads or units alone count as a change of width by a factor of 1."""
    deeper = after.n_layer > before.n_layer
    wider = after.d_model > before.d_model or not deeper
    return Change(n_layer=after.n_layer if deeper else None, d_model=after.d_model if wider else None)
