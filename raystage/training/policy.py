"""From the configuration to the controller's policy and to the model of each stage."""

from raystage.config.schema import MIN_DWELL_STEPS, SETTLE_STEPS, Config
from raystage.models.family import ModelSpec
from raystage.pacing.policy import Policy
from raystage.pacing.stage import Plan, Shape, make_plan


def plan_of(config: Config) -> Plan:
    """The first stage and the changes that the pacing lists ask for; a null list stays at the target."""
    pacing, model = config.pacing, config.model
    return make_plan(
        pacing.lengths or (model.context_length,), pacing.depths or (model.n_layer,), pacing.widths or (model.d_model,), pacing.order
    )


def policy_of(config: Config) -> Policy:
    """The controller's policy, its null spans filled in from the batch size."""
    pacing, batch_tokens = config.pacing, config.training.batch_tokens
    settle, dwell = pacing.settle_tokens, pacing.min_dwell_tokens
    thresholds = pacing.thresholds
    return Policy(
        plan=plan_of(config),
        rule=pacing.rule,
        thresholds={"length": thresholds.length, "depth": thresholds.depth, "width": thresholds.width},
        check_every_steps=pacing.check_every_steps,
        checks_in_a_row=pacing.checks_in_a_row,
        confidence=pacing.confidence,
        window_fraction=pacing.window_fraction,
        settle_tokens=SETTLE_STEPS * batch_tokens if settle is None else settle,
        min_dwell_tokens=MIN_DWELL_STEPS * batch_tokens if dwell is None else dwell,
        max_dwell_tokens=pacing.max_dwell_tokens,
        at=pacing.at or (),
    )


def spec_of(config: Config, shape: Shape, vocab_size: int, eot_id: int) -> ModelSpec:
    """The model of a stage; tensors of every stage hold the full context."""
    model = config.model
    return ModelSpec(
        family=model.family,
        vocab_size=vocab_size,
        context_length=model.context_length,
        n_layer=shape.n_layer,
        d_model=shape.d_model,
        head_dim=model.d_model // model.n_head,
        dropout=model.dropout,
        eot_id=eot_id,
    )


def vocab_size_of(config: Config, tokenizer_size: int) -> int:
    """The model's vocabulary: as configured, else the tokenizer's rounded up to a multiple of 64.

    Raises ValueError when the tokenizer has more entries than the model.
    """
    if config.model.vocab_size is None:
        return -(-tokenizer_size // 64) * 64
    if config.model.vocab_size < tokenizer_size:
        raise ValueError(
            f"model.vocab_size={config.model.vocab_size}: the tokenizer has {tokenizer_size} entries; raise it or leave it null"
        )
    return config.model.vocab_size
