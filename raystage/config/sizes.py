"""Sizes of the target model that the configuration leaves to be worked out."""

from raystage.config.schema import Model


def d_ff_of(model: Model) -> int:
    """The target's feed-forward units: GPT-2's 4 d_model, Llama's 8/3 d_model rounded up to a multiple of 64."""
    if model.d_ff is not None:
        return model.d_ff
    return 4 * model.d_model if model.family == "gpt2" else -(-8 * model.d_model // (3 * 64)) * 64
