"""`raystage grow`: a larger checkpoint from a smaller one, compared with it before anything is written."""

import math
import shutil
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from raystage.config import ConfigError
from raystage.data.durable import whole_folder
from raystage.growth import TrainingTensors
from raystage.growth.grow import grow_parameters, grow_states
from raystage.models.family import build_with
from raystage.runtime.grow_gate import Answer, answer, difference, probe_tokens
from raystage.runtime.grow_manifest import duration_of, grown_manifest
from raystage.runtime.grow_plan import GrowthPlan, mistakes_in_one_line
from raystage.tracking.units import count
from raystage.training.checkpoint_writing import write_checkpoint

_SHARD = "5GB"
_BESIDE = (
    "generation_config.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "*.model",
)


def write_grown(plan: GrowthPlan, destination: Path) -> str:
    """Grows, compares and writes; one line that says what came out. Raises ConfigError before anything is written."""
    destination = destination.expanduser().absolute()
    with mistakes_in_one_line():
        tensors, before, after = _grow(plan)
        moved = difference(before, after)
        _pass_gate(plan, moved)
        with whole_folder(destination) as partial:
            if plan.keeps_state:
                assert plan.source.manifest is not None
                losses = (before.loss, after.loss)
                manifest = grown_manifest(
                    plan.source.manifest, plan.after, plan.target, duration_of(plan.source.folder, plan.target), losses, plan.preserves
                )
                write_checkpoint(partial, manifest, plan.config, tensors)
            else:
                _write_model(plan, tensors.parameters, partial)
            _copy_beside(plan.source.folder, partial)
    return _summary(plan, destination, tensors.parameters, moved)


def _grow(plan: GrowthPlan) -> tuple[TrainingTensors, Answer, Answer]:
    """The grown tensors, and what the small and the grown model say."""
    source = plan.source
    tokens_BL = probe_tokens(source.spec.vocab_size, source.spec.context_length)
    parameters = source.parameters()
    before = answer(source.config, source.family, parameters, tokens_BL)
    grown = grow_parameters(plan.growth, parameters, _widened, lambda name, field, tensor: tensor.to(plan.dtype))
    states, kind = {}, "AdamW"
    if plan.keeps_state and source.optimizer is not None:
        kind = source.optimizer.kind
        states = grow_states(plan.growth, parameters, source.states(), kind)
    del parameters
    return TrainingTensors(grown, states, kind), before, answer(plan.config, source.family, grown, tokens_BL)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _pass_gate(plan: GrowthPlan, moved: float) -> None:
    dtype = str(plan.dtype).removeprefix("torch.")
    if not math.isfinite(moved):
        raise ConfigError(
            f"the logits of the small or the grown model are no numbers in {dtype}; use growth.dtype=float32, or check the source"
        )
    if plan.preserves and moved > plan.tolerance:
        remedies = [f"growth.noise_scale={plan.method.noise_scale / 5:g}"] if plan.method.noise_scale else []
        if plan.dtype in (torch.bfloat16, torch.float16) and not plan.source.manifest:
            remedies.insert(0, "growth.dtype=float32")
        raise ConfigError(
            f"the grown model's logits differ by {moved:.1e}, above {plan.tolerance:.0e} for {dtype} weights, so nothing is written; "
            f"try {' or '.join(remedies) or 'another size: the nearest whole factor rounds least'}"
        )


def _write_model(plan: GrowthPlan, parameters: dict[str, Tensor], folder: Path) -> None:
    disable_progress_bar()  # it would land between the lines of the command
    model = build_with(plan.config, plan.source.family, parameters)
    model.save_pretrained(folder, max_shard_size=_SHARD)  # type: ignore[operator]


def _copy_beside(source: Path, folder: Path) -> None:
    for path in sorted({path for pattern in _BESIDE for path in source.glob(pattern)}):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


def _summary(plan: GrowthPlan, destination: Path, parameters: dict[str, Tensor], moved: float) -> str:
    before, after = plan.source.spec, plan.after
    n_before = sum(math.prod(plan.source.headers[name].shape) for name in plan.source.names)
    n_after = sum(value.numel() for value in parameters.values())
    gate = f"allowed {plan.tolerance:.0e}" if plan.preserves else "this growth does not preserve the function"
    line = (
        f"grown: {plan.source.folder} ({before.n_layer} layers x {before.d_model} channels, {count(n_before)} parameters) -> {destination} "
        f"({after.n_layer} x {after.d_model}, {count(n_after)}); logits differ by {moved:.1e} ({gate})"
    )
    if plan.source.manifest and not plan.keeps_state:
        line += "; a longer context cuts the data anew, so the training state stayed behind: go on with init_from.what=weights"
    return line
