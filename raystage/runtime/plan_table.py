"""The stages that a configuration allows, as a table; runs nothing."""

from rich.box import SIMPLE
from rich.table import Table

from raystage.config import Config
from raystage.models.count import flops_per_token, matmul_parameters
from raystage.tracking.units import count
from raystage.training.policy import plan_of, spec_of, vocab_size_of


def plan_table(config: Config) -> Table:
    """One line a stage: shape, parameters that multiply a token (N), FLOPs of a token, and what ends it."""
    table = Table("stage", "length", "layers x channels", "heads", "N", "FLOPs a token", "ends", box=SIMPLE)
    plan, tokenizer = plan_of(config), config.data.tokenizer
    vocab_size = config.model.vocab_size or vocab_size_of(config, tokenizer.vocab_size)
    for number, shape in enumerate(plan.shapes(), 1):
        spec = spec_of(config, shape, vocab_size, eot_id=0)
        table.add_row(
            str(number),
            str(shape.seq_len_tokens),
            f"{shape.n_layer} x {shape.d_model}",
            str(spec.n_head),
            count(matmul_parameters(spec)),
            f"{flops_per_token(spec, shape.seq_len_tokens):.1e}",
            _end(config, number - 1),
        )
    return table


def _end(config: Config, number: int) -> str:
    changes, pacing = plan_of(config).changes, config.pacing
    if number == len(changes):
        return f"run, {config.training.duration}"
    change = changes[number]
    if pacing.rule == "table":
        assert pacing.at is not None
        return f"at {pacing.at[number]:.0%}: {change}"
    return f"slope > {getattr(pacing.thresholds, change.kind)}: {change}"
