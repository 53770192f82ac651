"""Sizes of the target model that the configuration leaves to be worked out."""

from raystage.config.schema import Config, Model


def d_ff_of(model: Model) -> int:
    """The target's feed-forward units: GPT-2's 4 d_model, Llama's 8/3 d_model rounded up to a multiple of 64."""
    if model.d_ff is not None:
        return model.d_ff
    return 4 * model.d_model if model.family == "gpt2" else -(-8 * model.d_model // (3 * 64)) * 64


def planned_vocab_size(config: Config) -> int:
    """[entries] as far as the configuration says: of a tokenizer from elsewhere it does not, and that of a trained one is taken."""
    return config.model.vocab_size or vocab_size_of(config, config.data.tokenizer.vocab_size)


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
