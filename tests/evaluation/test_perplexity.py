"""Perplexity: each token once, given what it should be given; the same as transformers alone, a token at a time."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raystage.config import ConfigError
from raystage.evaluation.perplexity import Perplexity, perplexity, text_tokens, windows
from raystage.evaluation.scoring import Passage, score
from tests.evaluation.made_model import CONTEXT_TOKENS, made_folder, made_text, opened, plain_log_probabilities

TEXT = made_text(120)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_folder(tmp_path_factory.mktemp(request.param), request.param)


@given(n_tokens=st.integers(1, 200), context=st.integers(1, 40), data=st.data())
def test_windows_score_each_token_once_given_enough(n_tokens: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    scored: list[int] = []
    for window in windows(n_tokens, context, stride):
        assert 0 <= window.begin < window.end <= n_tokens + 1
        assert window.end - window.begin - 1 == min(context, n_tokens)  # inputs: all windows alike
        places = range(window.end - window.n_scored, window.end)
        assert all(place - window.begin >= min(place, context - stride + 1) for place in places)
        scored += places
    assert scored == list(range(1, n_tokens + 1))


def test_a_text_stands_behind_one_end_of_text(folder: Path) -> None:
    tokenizer = opened(folder).tokenizer
    assert text_tokens(opened(folder), TEXT).tolist() == [tokenizer.eos_token_id, *tokenizer(TEXT)["input_ids"]]


def token_by_token(folder: Path, text: str, context: int, stride: int) -> float:
    """-log of the text's probability: for each token a pass of its own over what stands before it."""
    tokens = text_tokens(opened(folder), text).tolist()
    nll_nats = 0.0
    for place in range(1, len(tokens)):
        # the first window reaches to place `context`; the next ones end `stride` further each, the last one with the text
        end = max(context, context + math.ceil((place - context) / stride) * stride)
        begin = max(0, min(end, len(tokens) - 1) - context)
        nll_nats -= plain_log_probabilities(folder, tokens[begin:place])[-1, tokens[place]]
    return nll_nats


@pytest.mark.parametrize(("context", "stride"), [(CONTEXT_TOKENS, CONTEXT_TOKENS), (CONTEXT_TOKENS, 5), (7, 1)])
def test_the_same_as_transformers_token_by_token(folder: Path, context: int, stride: int) -> None:
    text = TEXT[:150]
    found = perplexity(opened(folder), text, context, stride, batch_tokens=64)
    assert found.nll_nats == pytest.approx(token_by_token(folder, text, context, stride), rel=1e-5)
    assert found.n_tokens == len(text_tokens(opened(folder), text)) - 1


def test_batches_change_nothing(folder: Path) -> None:
    model = opened(folder)
    alone, together = (perplexity(model, TEXT, CONTEXT_TOKENS, 6, batch_tokens) for batch_tokens in (1, 10_000))
    assert alone.nll_nats == pytest.approx(together.nll_nats, rel=1e-6)
    assert alone.n_hits == together.n_hits


def test_passages_of_all_lengths_come_back_as_if_alone(folder: Path) -> None:
    tokens = text_tokens(opened(folder), TEXT)
    shapes = [(3, 1), (17, 4), (2, 1), (9, 8), (17, 16), (5, 2)]
    passages = [Passage(tokens[10 * i : 10 * i + n], n_scored) for i, (n, n_scored) in enumerate(shapes)]
    found = dict(score(opened(folder), passages, batch_tokens=40))
    assert sorted(found) == list(range(len(passages)))
    for number, passage in enumerate(passages):
        *before, _ = passage.tokens.tolist()
        table = plain_log_probabilities(folder, before)[-passage.n_scored :]
        targets = passage.tokens[-passage.n_scored :]
        np.testing.assert_allclose(found[number].losses, -table[np.arange(passage.n_scored), targets], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[number].hits, table.argmax(1) == targets)


def test_dropout_is_off_and_the_mode_stays(tmp_path: Path) -> None:
    model = opened(made_folder(tmp_path, dropout=0.5))
    model.module.train()
    first, second = (perplexity(model, TEXT, CONTEXT_TOKENS, 8, 256) for _ in range(2))
    assert first == second
    assert model.module.training
    model.module.eval()
    assert perplexity(model, TEXT, CONTEXT_TOKENS, 8, 256) == first
    assert not model.module.training
    assert torch.is_grad_enabled()


def test_bf16_is_near_float32_and_not_the_same(tmp_path: Path) -> None:
    folder = made_folder(tmp_path)
    wide, half = (perplexity(opened(folder, precision=precision), TEXT, CONTEXT_TOKENS, 8, 256) for precision in ("float32", "bf16"))
    assert half.loss != wide.loss
    assert half.loss == pytest.approx(wide.loss, rel=0.02)


def test_the_figures_by_hand() -> None:
    found = Perplexity(nll_nats=60 * math.log(2), n_tokens=30, n_words=20, n_bytes=120, n_hits=3)
    assert found.loss == pytest.approx(2 * math.log(2))
    assert found.token_perplexity == pytest.approx(4)
    assert found.word_perplexity == pytest.approx(8)
    assert found.bits_per_byte == pytest.approx(0.5)
    assert found.token_accuracy == pytest.approx(0.1)
    assert Perplexity(1e6, 30, 20, 120, 3).word_perplexity == math.inf


def test_words_and_bytes_are_those_of_the_text(folder: Path) -> None:
    text = " one  two\n\nthree € "
    found = perplexity(opened(folder), text, CONTEXT_TOKENS, CONTEXT_TOKENS, 256)
    assert (found.n_words, found.n_bytes) == (4, 21)
    assert perplexity(opened(folder), text, CONTEXT_TOKENS, CONTEXT_TOKENS, 256, n_words=5).n_words == 5


@pytest.mark.parametrize("text", ["", "x", " \n \n"])
def test_too_short_a_text_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="needs two tokens and a word"):
        perplexity(opened(folder), text, CONTEXT_TOKENS, 1, 256)
