"""What `raystage grow` is to do, checked as far as headers tell, before a tensor is read."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PretrainedConfig

from raystage.config import ConfigError
from raystage.config.grow import Target
from raystage.growth import GrowthError, Method
from raystage.growth.gate import tolerance_of
from raystage.growth.grow import Growth
from raystage.growth.sizes import target_of
from raystage.models.spec import ModelSpec
from raystage.runtime.grow_manifest import duration_of
from raystage.runtime.grow_source import Source, open_source
from raystage.training.stage_model import method_from


@dataclasses.dataclass(frozen=True)
class GrowthPlan:
    """What is to be done, checked as far as headers tell. `config`: of the grown model; `keeps_state`: the result is a
    checkpoint that training goes on from, not a model alone."""

    source: Source
    target: Target
    after: ModelSpec
    method: Method
    growth: Growth
    config: PretrainedConfig
    dtype: torch.dtype
    keeps_state: bool

    @property
    def preserves(self) -> bool:
        return self.method.preserves(self.source.spec, self.after)

    @property
    def tolerance(self) -> float:
        """Relative difference of the logits that is allowed. The classes compute RMSNorm in float32 whatever the weights."""
        allowed = tolerance_of(self.dtype)
        return max(allowed, tolerance_of(torch.float32)) if self.growth.axes.norm == "rms" else allowed


def plan_growth(source_path: Path, destination: Path, target: Target, verify: bool) -> GrowthPlan:
    """The growth that was asked for. `verify`: checksums too, which reads the source whole. Raises ConfigError."""
    with mistakes_in_one_line():
        if destination.expanduser().exists():
            raise ConfigError(f"{destination}: exists; name a new folder")
        source = open_source(source_path.expanduser(), target.optimizer == "keep", verify)
        after = _sizes(source.spec, target)
        dtype = _dtype(source, target)
        usual = method_from(target, target.seed)
        method = dataclasses.replace(usual, noise_scale=usual.noise_for(dtype), positions=target.positions)
        # rows are cut to the context, so a data position means nothing at another one
        keeps_state = source.manifest is not None and after.context_length == source.spec.context_length
        growth = Growth(source.spec, after, method, source.config)
        plan = GrowthPlan(source, target, after, method, growth, growth.config, dtype, keeps_state)
        if source.manifest and keeps_state:
            duration_of(source.folder, target)
        return plan


@contextlib.contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """What growth, checkpoints and files refuse, as ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{error.filename or 'destination'}: {error.strerror or error}; nothing was written") from None
    except SafetensorError as error:
        raise ConfigError(f"destination: {error}; nothing was written") from None
    except GrowthError as error:
        raise ConfigError(f"growth: {error}") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _sizes(before: ModelSpec, target: Target) -> ModelSpec:
    given = {
        "n_layer": target.depth,
        "d_model": target.d_model,
        "n_head": target.n_head,
        "n_kv_head": target.n_kv_head,
        "d_ff": target.d_ff,
        "context_length": target.context_length,
        "rope_theta": target.rope_theta,
    }
    after = target_of(before, target.width, **{key: value for key, value in given.items() if value is not None})
    if after == before:
        raise ConfigError(
            "nothing to grow: give growth.width=2, growth.depth=LAYERS, growth.context_length=TOKENS, growth.rope_theta=BASE, or one of "
            "growth.d_model, growth.n_head, growth.n_kv_head, growth.d_ff, above what the model has"
        )
    return after


def _dtype(source: Source, target: Target) -> torch.dtype:
    if target.dtype == "source":
        return source.dtype
    dtype: torch.dtype = getattr(torch, target.dtype)
    if source.manifest and dtype != source.dtype:
        raise ConfigError(
            f"growth.dtype={target.dtype}: training goes on in {str(source.dtype).removeprefix('torch.')}; leave it at source, "
            "or grow the model that 'raystage export' writes"
        )
    return dtype
