"""Where a run begins: its own latest checkpoint, another's state or weights, or from scratch."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from raystage.config.duration import parse_duration
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.growth.tensors import TrainingTensors
from raystage.models.axes import Parameter
from raystage.models.family import build_model, get_family
from raystage.models.spec import ModelSpec
from raystage.models.stored_names import named_as_model
from raystage.pacing.stage import Shape, Taken
from raystage.training.checkpoint import MANIFEST_FILE, CheckpointStore, Stored
from raystage.training.checkpoint_files import open_tensors
from raystage.training.counters import Counters
from raystage.training.errors import CheckpointError
from raystage.training.job import Job
from raystage.training.manifest import Manifest, read_manifest
from raystage.training.optimizer import optimizer_class
from raystage.training.policy import plan_of
from raystage.training.state import TrainState, assemble, assemble_stored
from raystage.training.tensor_pieces import read_tensors
from raystage.training.weight_files import has_weights, read_headers


def start_state(job: Job, resume: Stored | None, device: Device, ranks: Ranks) -> tuple[TrainState, list[dict[str, Any]]]:
    """The state before the first step of this attempt, and the records of the decisions that led to it.

    Raises CheckpointError when what it starts from does not fit.
    """
    if resume is not None:
        return from_checkpoint(job, resume, resume.manifest.taken, device, ranks), list(resume.manifest.decisions)
    source = job.config.init_from.path
    if source is None:
        plan = plan_of(job.config)
        return TrainState(assemble(job.spec(plan.start), job.config, device, ranks), plan.start, plan.untouched, Counters()), []
    folder = find_checkpoint(Path(source))
    if job.config.init_from.what == "weights":
        return _from_weights(job, folder, device, ranks), []
    stored = Stored(folder, _manifest(folder))
    state = from_checkpoint(job, stored, _taken_in_plan(job, stored.manifest.shape), device, ranks)
    # holds, rollbacks and an early end were the other run's
    counters = dataclasses.replace(state.counters, held=False, n_rollbacks=0, duration_share=1.0)
    return dataclasses.replace(state, counters=counters), [_inherited(record) for record in stored.manifest.decisions]


def _inherited(record: dict[str, Any]) -> dict[str, Any]:
    """A decision of another run: its commands and rollback targets mean nothing here."""
    return {name: None if name == "command_id" else value for name, value in record.items() if name != "restored_step"}


def find_checkpoint(path: Path) -> Path:
    """A run folder's newest good checkpoint, or `path` itself where it holds a model. Raises CheckpointError."""
    if has_weights(path):
        return path
    stored = CheckpointStore(path).latest_good() if path.is_dir() else None
    if stored is None:
        raise CheckpointError(
            f"{path}: no safetensors weights and no usable checkpoint; give a run folder, a checkpoint or a Hugging Face folder"
        )
    return stored.folder


def from_checkpoint(job: Job, stored: Stored, taken: Taken, device: Device, ranks: Ranks) -> TrainState:
    """The state that a checkpoint holds, with `taken` changes of the plan behind. Raises CheckpointError when it does not fit."""
    manifest = stored.manifest
    spec = job.spec(manifest.shape)
    if dataclasses.replace(manifest.spec, dropout=spec.dropout) != spec:
        raise CheckpointError(f"{stored.folder}: holds a model of {manifest.spec}, the configuration asks for {spec}")
    if manifest.corpus_digest != job.corpus.digest:
        raise CheckpointError(
            f"{stored.folder}: was trained on another corpus; its data position means nothing here (init_from.what=weights)"
        )
    if manifest.seed != job.config.seed:
        raise CheckpointError(
            f"{stored.folder}: seed {manifest.seed} ordered its data, the configuration has seed={job.config.seed}; use that one"
        )
    tensors = open_tensors(stored.folder)
    kind = job.config.training.optimizer.kind
    if tensors.optimizer.fields and tensors.optimizer.kind != optimizer_class(kind):
        raise CheckpointError(
            f"{stored.folder}: holds the state of {tensors.optimizer.kind}, not that of training.optimizer.kind={kind}; "
            "use its kind, or init_from.what=weights"
        )
    machinery = assemble_stored(spec, job.config, device, ranks, tensors)
    return TrainState(machinery, manifest.shape, taken, manifest.counters_under(parse_duration(job.config.training.duration)))


def _from_weights(job: Job, folder: Path, device: Device, ranks: Ranks) -> TrainState:
    plan = plan_of(job.config)
    spec = job.spec(plan.start)
    _check_heads(folder, spec)
    given = _read_as_model(folder, spec)
    fresh = {name: p.detach() for name, p in build_model(spec, job.config.seed).named_parameters()}
    if set(given) != set(fresh):
        odd = sorted(set(given) ^ set(fresh))
        raise CheckpointError(
            f"{folder}: its tensors are not those of {spec.n_layer} {spec.family} layers ({odd[0]} and {len(odd) - 1} more differ)"
        )
    axes = get_family(spec.family).axes(spec)
    parameters = {name: _fit_rows(folder, name, given[name], fresh[name], axes.lookup(name)) for name in fresh}
    machinery = assemble(spec, job.config, device, ranks, TrainingTensors(parameters))
    return TrainState(machinery, plan.start, plan.untouched, Counters())


def _check_heads(folder: Path, spec: ModelSpec) -> None:
    """Tensors cut into another number of heads have the same shapes and mean something else."""
    try:
        config = json.loads((folder / "config.json").read_text())
        heads = config.get("n_head", config.get("num_attention_heads", spec.n_head))
    except (OSError, ValueError):
        return
    if heads != spec.n_head:
        raise CheckpointError(
            f"{folder}: its attention has {heads} heads, the first stage's model {spec.n_head}; set model.n_head accordingly"
        )


def _read_as_model(folder: Path, spec: ModelSpec) -> dict[str, torch.Tensor]:
    """The folder's parameters in float32, by the names of a model of `spec`."""
    headers = read_headers(folder)
    names = named_as_model(headers, get_family(spec.family).axes(spec), spec.tied)
    return {names[stored]: tensor.float() for stored, tensor in read_tensors(headers, names).items()}


def _fit_rows(folder: Path, name: str, given: torch.Tensor, fresh: torch.Tensor, parameter: Parameter) -> torch.Tensor:
    """A vocabulary padded beyond the given one keeps fresh rows there; any other difference is an error."""
    if given.shape == fresh.shape:
        return given
    is_vocabulary = parameter.axes[0].dimension == "vocab"
    if is_vocabulary and given.shape[1] == fresh.shape[1] and given.shape[0] < fresh.shape[0]:
        return torch.cat([given, fresh[given.shape[0] :]])
    raise CheckpointError(
        f"{folder}: {name} has shape {tuple(given.shape)}, the first stage's model {tuple(fresh.shape)}; "
        "make model, pacing.depths and pacing.widths start there"
    )


def _manifest(folder: Path) -> Manifest:
    try:
        return read_manifest(folder / MANIFEST_FILE)
    except ValueError as error:
        raise CheckpointError(f"{folder}: no training state to go on from ({error}); init_from.what=weights takes weights alone") from None


def _taken_in_plan(job: Job, shape: Shape) -> Taken:
    taken = plan_of(job.config).taken_at(shape)
    if taken is None:
        raise CheckpointError(f"init_from.path={job.config.init_from.path}: its stage {shape} is none of this plan's")
    return taken
