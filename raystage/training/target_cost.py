"""What the target model costs: the unit in which runs of different pacing are given alike."""

from raystage.config import Config
from raystage.config.duration import Duration
from raystage.config.sizes import planned_vocab_size
from raystage.models.count import flops_per_token
from raystage.models.spec import ModelSpec
from raystage.training.policy import plan_of
from raystage.training.stage_model import spec_of

_DIGITS = 4


def target_spec(config: Config) -> ModelSpec:
    """The model that the run ends with."""
    return spec_of(config, plan_of(config).shapes()[-1], planned_vocab_size(config), eot_id=0)


def in_flops(duration: Duration, config: Config) -> Duration:
    """Steps or tokens as the FLOPs that the target at full context spends on them."""
    if duration.unit == "flops":
        return duration
    tokens = duration.amount * (config.training.batch_tokens if duration.unit == "steps" else 1)
    flops = tokens * flops_per_token(target_spec(config), config.model.context_length)
    return Duration(float(f"{flops:.{_DIGITS}g}"), "flops")


def as_text(duration: Duration) -> str:
    """As `training.duration` has it."""
    amount = max(1, round(duration.amount)) if duration.unit == "steps" else duration.amount
    return f"{amount:.12g} {duration.unit}"
