"""From the configuration to the controller's policy and to the model of each stage."""

from raystage.config.checks import d_ff_of
from raystage.config.schema import MIN_DWELL_STEPS, SETTLE_STEPS, Config, GrowthMethod
from raystage.growth import Method
from raystage.growth.method import HALF_PRECISION_NOISE_SCALE, NOISE_SCALE
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
        thresholds={"length": thresholds.length, "depth": thresholds.depth, "width": thresholds.width, "both": thresholds.both},
        check_every_steps=pacing.check_every_steps,
        checks_in_a_row=pacing.checks_in_a_row,
        confidence=pacing.confidence,
        window_fraction=pacing.window_fraction,
        settle_tokens=SETTLE_STEPS * batch_tokens if settle is None else settle,
        min_dwell_tokens=MIN_DWELL_STEPS * batch_tokens if dwell is None else dwell,
        max_dwell_tokens=pacing.max_dwell_tokens,
        at=pacing.at or (),
    )


def spec_of(config: Config, shape: Shape, vocab_size: int, eot_id: int | None) -> ModelSpec:
    """The model of a stage: heads and feed-forward units in proportion to its width, tensors for the full context."""
    model = config.model

    def at_width(target: int) -> int:
        return target * shape.d_model // model.d_model

    return ModelSpec(
        family=model.family,
        vocab_size=vocab_size,
        context_length=model.context_length,
        n_layer=shape.n_layer,
        d_model=shape.d_model,
        n_head=at_width(model.n_head),
        n_kv_head=at_width(model.n_kv_head or model.n_head),
        head_dim=model.head_dim or model.d_model // model.n_head,
        d_ff=at_width(d_ff_of(model)),
        tied=model.tie_embeddings,
        rope_theta=None if model.family == "gpt2" else model.rope_theta,
        dropout=model.dropout,
        eot_id=eot_id,
    )


def method_of(config: Config, decision_id: int) -> Method:
    """How the growth of one decision is done: its noise depends on the run's seed and the decision alone."""
    return method_from(config.growth, config.seed * 1_000_003 + decision_id)


def method_from(settings: GrowthMethod, seed: int, half_precision: bool = False) -> Method:
    """The method that the keys describe, for weights of that precision."""
    usual = HALF_PRECISION_NOISE_SCALE if half_precision else NOISE_SCALE
    noise_scale = (settings.noise_scale or usual) if settings.symmetry == "noise" else 0.0
    return Method(settings.placement, settings.new_layers, noise_scale, seed=seed)


def peak_lr(config: Config, shape: Shape) -> float:
    """The peak learning rate of a model size: that of the last size of the plan that is no larger."""
    if config.growth.peak_lrs is None:
        return config.training.optimizer.lr
    sizes = dict.fromkeys((planned.n_layer, planned.d_model) for planned in plan_of(config).shapes())
    reached = [n_layer <= shape.n_layer and d_model <= shape.d_model for n_layer, d_model in sizes]
    return config.growth.peak_lrs[max(i for i, is_reached in enumerate(reached) if is_reached)]


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
