"""The runs of a folder, as a table."""

from pathlib import Path

from rich.box import SIMPLE
from rich.table import Column, Table

from raystage.config import ConfigError, load
from raystage.config.duration import Duration, parse_duration
from raystage.tracking.units import count
from raystage.training.checkpoint import CheckpointStore


def run_table(storage: Path) -> Table:
    """One line a run, as its newest checkpoint has it, and one for each checkpoint. Raises ConfigError for a missing folder."""
    if not storage.is_dir():
        raise ConfigError(f"{storage}: no such folder; runs lie in the folder that the key 'storage' names")
    # the name of a checkpoint is what export and grow are told, so it is never cut off
    name = Column("run", no_wrap=True, overflow="ignore")
    table = Table(name, "done", "step", "tokens", "length", "layers x channels", "val loss", box=SIMPLE)
    for folder in sorted(path.parent for path in storage.glob("*/config.yaml")):
        duration = _duration(folder / "config.yaml")
        stored = CheckpointStore(folder).all()
        best = min((s for s in stored if s.manifest.val_loss is not None), key=lambda s: s.manifest.val_loss or 0.0, default=None)
        for number, checkpoint in enumerate([*stored[-1:], *stored]):
            manifest = checkpoint.manifest
            table.add_row(
                f"  {checkpoint.folder.name}{' pinned' * manifest.pinned}{' best' * (checkpoint is best)}" if number else folder.name,
                f"{min(1.0, manifest.counters.progress(duration)):.0%}" if duration else "?",
                f"{manifest.counters.step:,}",
                count(manifest.counters.tokens_seen),
                str(manifest.shape.seq_len_tokens),
                f"{manifest.shape.n_layer} x {manifest.shape.d_model}",
                "" if manifest.val_loss is None else f"{manifest.val_loss:.4f}",
            )
        if not stored:
            table.add_row(folder.name, "0%" if duration else "?", *[""] * 5)
    return table


def _duration(file: Path) -> Duration | None:
    """None where this raystage cannot read the configuration: of another one, or changed by hand."""
    try:
        return parse_duration(load(file).training.duration)
    except ConfigError:
        return None
