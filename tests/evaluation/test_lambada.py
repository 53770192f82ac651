"""LAMBADA: which word is the last, hits only where all its tokens are the likeliest, perplexity by word; worked by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from raystage.config import ConfigError
from raystage.evaluation.lambada import lambada, split_last_word
from tests.evaluation.made_model import CONTEXT_TOKENS, made_folder, opened, plain_log_probabilities

LONG = "the loss of a model falls as stages grow longer and wider until the slopes of the model rest"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_folder(tmp_path_factory.mktemp("lambada"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a clear sign", ("a clear", " sign")),
        ('he said "sign', ("he said", ' "sign')),
        ("a  sign", ("a", "  sign")),
        ("made of\n\nPower", ("made", " of\n\nPower")),
        ("one of\n sign", ("one of", "\n sign")),
        ("sign", ("", "sign")),
        ("a sign ", ("a sign", " ")),
    ],
)
def test_the_last_word_is_what_follows_the_last_space(text: str, parts: tuple[str, str]) -> None:
    assert split_last_word(text) == parts


def by_hand(folder: Path, text: str) -> tuple[int, float, bool]:
    """Tokens of the last word, -log of its probability, and whether each of them is the likeliest; the parts encoded apart."""
    tokenizer = opened(folder).tokenizer
    before, word = split_last_word(text)
    sequence, targets = tokenizer(before)["input_ids"], tokenizer(word)["input_ids"]
    nll_nats, hit = 0.0, True
    window = (sequence + targets)[-CONTEXT_TOKENS - 1 :][:-1]
    table = plain_log_probabilities(folder, window)[-len(targets) :]
    for row, target in zip(table, targets, strict=True):
        nll_nats -= row[target]
        hit &= int(row.argmax()) == target
    return len(targets), nll_nats, hit


def test_every_token_of_the_last_word_counts(folder: Path) -> None:
    texts = ["the loss of a model", "slopes rest until zyx", "stages grow wider", LONG]
    found = lambada(opened(folder), texts, CONTEXT_TOKENS, batch_tokens=48)
    expected = [by_hand(folder, text) for text in texts]
    assert max(n for n, _, _ in expected) > 1
    assert found.n_target_tokens == sum(n for n, _, _ in expected)
    assert found.nll_nats == pytest.approx(sum(nll for _, nll, _ in expected), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(np.mean([nll for _, nll, _ in expected])), rel=1e-5)
    assert found.n_hits == sum(hit for _, _, hit in expected)
    assert (found.n_passages, found.n_cut) == (4, 1)


def test_a_greedy_reader_hits_and_one_wrong_token_misses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets are what the model itself would write, but for one token."""
    model = opened(folder)
    start = model.tokenizer("the loss of a model")["input_ids"]
    written = list(start)
    for _ in range(3):
        written.append(int(plain_log_probabilities(folder, written)[-1].argmax()))
    wrong = [*written[:-2], (written[-2] + 1) % 256, written[-1]]
    encoded = {"a right": written, "a wrong": wrong, "a": start}
    monkeypatch.setattr(type(model.tokenizer), "__call__", lambda self, text, **_: {"input_ids": encoded[text]})
    found = lambada(model, ["a right", "a wrong"], CONTEXT_TOKENS, 64)
    assert (found.n_hits, found.accuracy, found.n_target_tokens) == (1, 0.5, 6)


def test_batches_change_nothing(folder: Path) -> None:
    texts = [LONG[: LONG.index(" ", i)] for i in range(5, 80, 7)]
    alone, together = (lambada(opened(folder), texts, CONTEXT_TOKENS, batch_tokens) for batch_tokens in (1, 10_000))
    assert alone.nll_nats == pytest.approx(together.nll_nats, rel=1e-6)
    assert alone.n_hits == together.n_hits


@pytest.mark.parametrize("text", ["sign", "", " sign", "a sign "])
def test_what_has_no_last_word_is_refused_with_its_number(folder: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="passage 2: "):
        lambada(opened(folder), ["a sign", text], CONTEXT_TOKENS, 64)


def test_a_word_longer_than_the_context_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="the context is 2"):
        lambada(opened(folder), ["the zyxwv"], 2, 64)
