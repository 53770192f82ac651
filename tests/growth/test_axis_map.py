"""Maps of single axes, by hand."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from raystage.growth.axis_map import map_axis, query_head_index
from raystage.growth.optimizer_state import Meaning
from raystage.growth.width import grow_state, grow_value
from raystage.models.axes import Axis, Dimension, Role
from raystage.models.spec import ModelSpec
from tests.growth.networks import GPT2, SPECS

QWEN3 = SPECS["qwen3"]


def heads(n_head: int, n_kv_head: int, head_dim: int = 1) -> ModelSpec:
    return dataclasses.replace(QWEN3, n_head=n_head, n_kv_head=n_kv_head, head_dim=head_dim)


def stream(d_model: int) -> ModelSpec:
    return dataclasses.replace(QWEN3, d_model=d_model)


def mapped(axis: Axis, before: ModelSpec, after: ModelSpec, values: list[float], norm: str = "rms") -> list[float]:
    return grow_value(torch.tensor(values, dtype=torch.float64), [map_axis(axis, before, after, norm)]).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after", "index"),
    [
        ((2, 2), (4, 4), [0, 1, 0, 1]),
        ((2, 2), (3, 3), [0, 1, 0]),
        ((4, 2), (8, 4), [0, 1, 2, 3, 0, 1, 2, 3]),
        # the same key-value heads with larger groups: each deals its own query heads again
        ((4, 2), (8, 2), [0, 1, 0, 1, 2, 3, 2, 3]),
        ((4, 2), (6, 2), [0, 1, 0, 2, 3, 2]),
        # from groups of four to groups of two: the copies of a key-value head share out its query heads
        ((4, 1), (4, 2), [0, 1, 2, 3]),
        ((4, 1), (6, 3), [0, 1, 2, 3, 0, 1]),
        # grouped queries to a key-value head for each
        ((4, 2), (4, 4), [0, 2, 1, 3]),
        ((3, 1), (8, 2), [0, 1, 2, 0, 1, 2, 0, 1]),
    ],
)
def test_query_heads_stay_with_their_key_value_head(before: tuple[int, int], after: tuple[int, int], index: list[int]) -> None:
    assert query_head_index(heads(*before), heads(*after)) == index


def test_twelve_heads_to_sixteen() -> None:
    before, after = heads(12, 12), heads(16, 16)
    source = [float(i) for i in range(1, 13)]
    assert mapped(Axis("heads", "out"), before, after, source) == source + source[:4]
    # what reads them is shared between the copies of the first four
    shares = [x / 2 for x in source[:4]]
    assert mapped(Axis("heads", "in"), before, after, source) == shares + source[4:] + shares


def test_heads_move_whole() -> None:
    assert mapped(Axis("heads", "out"), heads(2, 2, 2), heads(3, 3, 2), [1, 2, 3, 4]) == [1, 2, 3, 4, 1, 2]
    assert mapped(Axis("kv_heads", "out"), heads(4, 2, 2), heads(4, 4, 2), [1, 2, 3, 4]) == [1, 2, 3, 4, 1, 2, 3, 4]


def test_queries_keys_and_values_in_one_matrix_grow_each_by_itself() -> None:
    before, after = (dataclasses.replace(GPT2, n_head=n, n_kv_head=n, head_dim=1) for n in (2, 3))
    assert mapped(Axis("heads", "out", sections=3), before, after, [1, 2, 3, 4, 5, 6]) == [1, 2, 1, 3, 4, 3, 5, 6, 5]


def test_units_of_the_feed_forward_layer() -> None:
    before, after = (dataclasses.replace(GPT2, d_ff=d_ff) for d_ff in (3, 7))
    assert mapped(Axis("ffn", "out"), before, after, [1, 2, 3]) == [1, 2, 3, 1, 2, 3, 1]
    assert mapped(Axis("ffn", "in"), before, after, [3, 2, 4]) == [1, 1, 2, 1, 1, 2, 1]


# k = 2 whole copies of two channels and one more; s^2 = 5 / 4
S = math.sqrt(5 / 4)


@pytest.mark.parametrize(
    ("role", "norm", "expected"),
    [
        ("write", "layer", [S, 3 * S, S, 3 * S, 2 * S]),
        ("write", "rms", [S, 3 * S, S, 3 * S, 0]),
        ("read", "rms", [1 / 2, 3 / 2, 1 / 2, 3 / 2, 1 / 2]),
        ("gain", "rms", [1 / S, 3 / S, 1 / S, 3 / S, 1 / S]),
        ("bias", "layer", [1, 3, 1, 3, 0]),
        ("tied_gain", "rms", [0.4, 1.2, 0.4, 1.2, 0.4]),
        ("tied_bias", "layer", [0.5 / S, 1.5 / S, 0.5 / S, 1.5 / S, 0]),
    ],
)
def test_the_residual_stream_at_two_and_a_half(role: Role, norm: str, expected: list[float]) -> None:
    assert mapped(Axis("embed", role), stream(2), stream(5), [1, 3], norm) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize(("old", "new"), [(8, 8), (8, 11), (8, 16), (8, 27)])
def test_the_stream_has_the_mean_square_it_had_and_norms_give_what_they_gave(norm: str, old: int, new: int) -> None:
    """So eps, which norms of the queries may share, stays as it is."""
    x = torch.randn(old, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    grown = grow_value(x, [map_axis(Axis("embed", "write"), stream(old), stream(new), norm)])  # type: ignore[arg-type]
    assert moment(grown, norm) == pytest.approx(moment(x, norm), rel=1e-14)
    gain = grow_value(torch.ones(old, dtype=torch.float64), [map_axis(Axis("embed", "gain"), stream(old), stream(new), norm)])  # type: ignore[arg-type]
    copies = new // old * old
    assert torch.allclose((normed(grown, norm) * gain)[:copies], normed(x, norm).repeat(new // old), rtol=1e-13)
    assert float(normed(grown, norm)[copies:].abs().sum()) < 1e-12


@pytest.mark.parametrize(
    ("dimension", "role", "factor"),
    [
        ("ffn", "out", 1 / 3),
        ("ffn", "in", 1),
        ("embed", "write", 1 / 3),
        ("embed", "read", 1),
        ("embed", "gain", 1 / 3),
        ("embed", "bias", 1 / 3),
        ("embed", "tied_gain", 1),
        ("embed", "tied_bias", 1),
        ("vocab", "fixed", 1),
        ("head_dim", "fixed", 1),
    ],
)
def test_gradient_factors_at_three_times(dimension: Dimension, role: Role, factor: float) -> None:
    before = dataclasses.replace(QWEN3, d_ff=4, d_model=4, vocab_size=4, head_dim=4)
    axis_map = map_axis(Axis(dimension, role), before, dataclasses.replace(before, d_ff=12, d_model=12), "rms")
    gradient = torch.arange(1.0, 5.0, dtype=torch.float64)
    copies = 3 if dimension in ("ffn", "embed") else 1
    assert torch.allclose(grow_state(gradient, [axis_map], "linear"), gradient.repeat(copies) * factor, rtol=1e-15)
    assert torch.allclose(grow_state(gradient, [axis_map], "square"), gradient.repeat(copies) * factor**2, rtol=1e-15)
    assert axis_map.mean_square_gradient() == pytest.approx(factor**2)


@pytest.mark.parametrize(
    ("meaning", "expected"),
    [("linear", [1, 3, 1, 3, 0]), ("square", [1, 9, 1, 9, 5]), ("count", 7)],
)
def test_state_of_channels_that_copy_nothing(meaning: Meaning, expected: list[float] | float) -> None:
    """An empty mean of gradients, and the average of the squares."""
    axis_map = map_axis(Axis("embed", "read"), stream(2), stream(5), "rms")
    state = {"linear": [1.0, 3.0], "square": [1.0, 9.0], "count": 7.0}[meaning]
    grown = grow_state(torch.tensor(state), [axis_map], meaning)
    assert grown.tolist() == expected


def moment(x: Tensor, norm: str) -> float:
    """What a norm divides by: the variance, or the mean square."""
    return float(x.var(correction=0) if norm == "layer" else x.square().mean())


def normed(x: Tensor, norm: str) -> Tensor:
    centred = x - x.mean() if norm == "layer" else x
    return centred / math.sqrt(moment(x, norm) + 0.1)
