"""Perplexity of one text: a sliding window over its tokens, each scored once."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from raystage.config.errors import ConfigError
from raystage.evaluation.language_model import LanguageModel
from raystage.evaluation.scoring import OnTokens, Passage, ignore_tokens, score


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """`nll_nats`: -log of the probability of the whole text; `n_words`: what stands between white space, or as the caller counts;
    `n_bytes`: in UTF-8; `n_hits`: tokens that were the likeliest in their place."""

    nll_nats: float
    n_tokens: int
    n_words: int
    n_bytes: int
    n_hits: int

    @property
    def loss(self) -> float:
        """[nats per token]"""
        return self.nll_nats / self.n_tokens

    @property
    def token_perplexity(self) -> float:
        return exp(self.loss)

    @property
    def word_perplexity(self) -> float:
        """exp(nll / words): one over the geometric mean of a word's probability, whatever its tokens."""
        return exp(self.nll_nats / self.n_words)

    @property
    def bits_per_byte(self) -> float:
        return self.nll_nats / self.n_bytes / math.log(2)

    @property
    def token_accuracy(self) -> float:
        return self.n_hits / self.n_tokens


@dataclasses.dataclass(frozen=True)
class Window:
    """Tokens `begin` to `end` of a text with one token before it, the last `n_scored` of them scored."""

    begin: int
    end: int
    n_scored: int


def windows(n_tokens: int, context_tokens: int, stride_tokens: int) -> Iterator[Window]:
    """Windows of up to `context_tokens` inputs over 1 + `n_tokens` tokens, the first of which only gives context.

    The first window scores all its tokens, every later one `stride_tokens` more, and the last what is left, given as many tokens before
    it as fit. So each token is scored once, given at least min(its place, context - stride + 1) tokens. These are the windows of
    lm_eval's `get_rolling_token_windows` with `context_len` = context - stride + 1; its `loglikelihood_rolling` has stride = context.
    transformers' guide "Perplexity of fixed-length models" differs in the first token, which it does not score, and in the last window,
    which it does not move back.
    """
    assert 1 <= stride_tokens <= context_tokens
    end = 1 + min(n_tokens, context_tokens)
    yield Window(0, end, end - 1)
    while end < 1 + n_tokens:
        n_scored = min(stride_tokens, 1 + n_tokens - end)
        end += n_scored
        yield Window(end - context_tokens - 1, end, n_scored)


def perplexity(
    model: LanguageModel,
    text: str,
    context_tokens: int,
    stride_tokens: int,
    batch_tokens: int,
    n_words: int | None = None,
    on_tokens: OnTokens = ignore_tokens,
) -> Perplexity:
    """Of `text` as it stands, one document behind one end-of-text token. Raises ConfigError for a text of less than two tokens.

    `n_words`: the denominator of word-level perplexity, None: what white space separates.
    """
    tokens = text_tokens(model, text)
    passages = [
        Passage(tokens[window.begin : window.end], window.n_scored) for window in windows(len(tokens) - 1, context_tokens, stride_tokens)
    ]
    nll_nats, n_hits = 0.0, 0
    for _, scores in score(model, passages, batch_tokens, on_tokens):
        nll_nats += float(scores.losses.sum())
        n_hits += int(scores.hits.sum())
    return Perplexity(nll_nats, len(tokens) - 1, n_words or len(text.split()), len(text.encode()), n_hits)


def text_tokens(model: LanguageModel, text: str) -> NDArray[np.int64]:
    """The tokens of a text behind the one that stands before it. Raises ConfigError for one of less than two tokens."""
    tokens = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(tokens) < 2 or not text.split():
        raise ConfigError(f"the text has {len(tokens)} tokens and {len(text.split())} words; perplexity needs two tokens and a word")
    return np.array([model.prefix_id, *tokens], dtype=np.int64)


def exp(x: float) -> float:
    """Infinite where the number is too large."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
