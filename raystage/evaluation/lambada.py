"""LAMBADA (Paperno et al. 2016, 1606.06031): the last word of a passage, which only the whole passage gives away."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from raystage.config.errors import ConfigError
from raystage.evaluation.language_model import LanguageModel
from raystage.evaluation.perplexity import exp
from raystage.evaluation.scoring import OnTokens, Passage, ignore_tokens, score


@dataclasses.dataclass(frozen=True)
class Lambada:
    """`n_hits`: passages with every token of the last word the likeliest one, given the right ones before it; `nll_nats`: -log of the
    probabilities of all last words together; `n_target_tokens`: of the last words; `n_cut`: passages longer than the context."""

    n_passages: int
    n_hits: int
    nll_nats: float
    n_target_tokens: int
    n_cut: int

    @property
    def accuracy(self) -> float:
        return self.n_hits / self.n_passages

    @property
    def perplexity(self) -> float:
        """exp of the mean over passages of -log p(last word), as lm_eval's lambada_openai has it: by word, not by token."""
        return exp(self.nll_nats / self.n_passages)


def lambada(
    model: LanguageModel, texts: Sequence[str], context_tokens: int, batch_tokens: int, on_tokens: OnTokens = ignore_tokens
) -> Lambada:
    """Of passages as they stand. Raises ConfigError for a passage of a single word, or whose last word does not fit the context."""
    passages, n_cut = [], 0
    for number, text in enumerate(texts, start=1):
        passage = _passage(model, text, number)
        if passage.n_scored > context_tokens:
            raise ConfigError(f"passage {number}: its last word has {passage.n_scored} tokens, the context is {context_tokens}")
        n_cut += len(passage.tokens) > context_tokens + 1
        passages.append(Passage(passage.tokens[-context_tokens - 1 :], passage.n_scored))
    n_hits, nll_nats = 0, 0.0
    for _, scores in score(model, passages, batch_tokens, on_tokens):
        n_hits += bool(scores.hits.all())
        nll_nats += float(scores.losses.sum())
    return Lambada(len(passages), n_hits, nll_nats, sum(passage.n_scored for passage in passages), n_cut)


def split_last_word(text: str) -> tuple[str, str]:
    """What comes before the last word, and the last word with the white space before it.

    The last word is what follows the last space, punctuation included (lm_eval's lambada_openai). White space at the end of the first
    part goes to the second (lm_eval's `_encode_pair`): tokenizers join a space with the word behind it. Either part may be empty.
    """
    before, _, _ = text.rpartition(" ")
    before = before.rstrip()
    return before, text[len(before) :]


def _passage(model: LanguageModel, text: str, number: int) -> Passage:
    before, word = split_last_word(text)
    if not before or not word.strip():
        raise ConfigError(f"passage {number}: {text[:40]!r} is no text with a last word behind a space; LAMBADA needs a passage a line")
    # both whole, with what the tokenizer puts before a text of its own accord; the parts need not end at a border of tokens
    tokens, n_before = model.tokenizer(text)["input_ids"], len(model.tokenizer(before)["input_ids"])
    if len(tokens) <= n_before:
        raise ConfigError(f"passage {number}: the tokenizer gives its last word {word.strip()!r} no token of its own")
    return Passage(np.array(tokens, dtype=np.int64), len(tokens) - n_before)
