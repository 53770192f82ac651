"""From the configuration to the model of a stage: its sizes, how it grows, its peak learning rate."""

import math

from raystage.config.schema import Config, GrowthMethod
from raystage.config.sizes import d_ff_of
from raystage.growth import Method
from raystage.models.spec import ModelSpec
from raystage.pacing.stage import Shape
from raystage.training.policy import plan_of


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


def method_of(config: Config, stage: int) -> Method:
    """How the growth into a stage is done: its noise depends on the run's seed and the stage's number alone."""
    return method_from(config.growth, config.seed * 1_000_003 + stage)


def method_from(settings: GrowthMethod, seed: int) -> Method:
    """The method that the keys describe."""
    noise_scale = settings.noise_scale if settings.symmetry == "noise" else 0.0
    return Method(settings.placement, settings.new_layers, noise_scale, seed=seed)


def peak_lr(config: Config, shape: Shape) -> float:
    """The peak learning rate of a stage: that of the last size of the plan that is no larger, less what a smaller batch takes off.

    Under training.batch_lr=sqrt it is times sqrt(batch / target batch) (Krizhevsky 1404.5997, section 5, for SGD; Malladi et al.
    2205.10287 for Adam).
    """
    lr = config.training.optimizer.lr
    if config.growth.peak_lrs is not None:
        sizes = dict.fromkeys((planned.n_layer, planned.d_model) for planned in plan_of(config).shapes())
        reached = [n_layer <= shape.n_layer and d_model <= shape.d_model for n_layer, d_model in sizes]
        lr = config.growth.peak_lrs[max(i for i, is_reached in enumerate(reached) if is_reached)]
    scale = math.sqrt(shape.batch_tokens / config.training.batch_tokens) if config.training.batch_lr == "sqrt" else 1.0
    return lr * scale
