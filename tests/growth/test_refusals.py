"""What growth refuses, in one line and before anything is touched; the targets it names instead do work."""

import dataclasses
import math
import re
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raystage.growth import GrowthError, Method, grow
from raystage.growth.check import check_growth, nearest
from raystage.growth.gate import holds, tolerance_of
from raystage.growth.sizes import target_of
from raystage.models.spec import ModelSpec
from tests.growth.networks import GPT2, LLAMA, SPECS, difference, from_tensors, logits, shaken, state_of, widened

QWEN3 = SPECS["qwen3"]
QWEN3_GROUPS_OF_3 = dataclasses.replace(QWEN3, n_head=6)


def refusal(before: ModelSpec, after: ModelSpec, method: Method | None = None) -> str:
    with pytest.raises(GrowthError) as caught:
        check_growth(before, after, method or Method())
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("key", ["n_layer", "d_model", "n_head", "n_kv_head", "d_ff", "context_length"])
def test_smaller_targets(key: str) -> None:
    size = getattr(LLAMA, key)
    message = refusal(LLAMA, dataclasses.replace(LLAMA, **{key: size - 1}))
    assert message == f"{key} {size} -> {size - 1}: growth never makes a model smaller"


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 65},
        {"head_dim": 8},
        {"tied": False},
        {"dropout": 0.1},
        {"eot_id": 1},
        {"family": "qwen3"},
        {"tied": False, "eot_id": 3},
    ],
)
def test_what_does_not_grow(change: dict[str, Any]) -> None:
    message = refusal(LLAMA, dataclasses.replace(widened(LLAMA, 2), **change))
    assert message.startswith(", ".join(key for key in ("family", "vocab_size", "head_dim", "tied", "dropout", "eot_id") if key in change))
    assert "growth changes n_layer, d_model, n_head, n_kv_head, d_ff, context_length, rope_theta alone" in message


def test_rotary_positions_stay_rotary_and_learned_ones_learned() -> None:
    assert "learned positions" in refusal(GPT2, dataclasses.replace(GPT2, rope_theta=1e4))
    assert "must be given" in refusal(LLAMA, dataclasses.replace(LLAMA, rope_theta=None))


def test_copies_of_no_layer() -> None:
    none = dataclasses.replace(GPT2, n_layer=0)
    assert "no layer to copy; fresh" in refusal(none, GPT2, Method(new_layers="copy"))
    check_growth(none, none, Method(new_layers="copy"))
    for new_layers in ("fresh", "identity"):
        check_growth(none, GPT2, Method(new_layers=new_layers))


@pytest.mark.parametrize(
    ("before", "sizes", "cause", "named"),
    [
        (GPT2, {"d_model": 40}, "d_model 40: does not go with 2 heads of 8", {"n_head": {5}}),
        (GPT2, {"d_model": 20}, "d_model 20: does not go with 2 heads of 8", {"d_model": {24}}),
        (GPT2, {"d_model": 28, "n_head": 3, "n_kv_head": 3}, "d_model 28: does not go with 3 heads", {"d_model": {24, 32}}),
        (GPT2, {"n_head": 4, "n_kv_head": 4}, "d_model 16: does not go with 4 heads", {"d_model": {32}}),
        (LLAMA, {"d_model": 30}, "d_model 30: does not go with 4 heads", {"d_model": {28, 32}, "n_head": {6}}),
        (LLAMA, {"d_model": 24, "n_head": 6, "n_kv_head": 4}, "n_head 6 with n_kv_head 4", {"n_head": {4, 8}, "n_kv_head": {3, 6}}),
        # every head its own key-value head: no room for two query heads on one
        (QWEN3, {"n_head": 4, "n_kv_head": 3}, "n_head 4 with n_kv_head 3", {"n_head": {6}, "n_kv_head": {4}}),
        (QWEN3_GROUPS_OF_3, {"n_head": 6, "n_kv_head": 3}, "n_head 6 with n_kv_head 3", {"n_head": {9}, "n_kv_head": {6}}),
    ],
)
def test_heads_that_cannot_be(before: ModelSpec, sizes: dict[str, Any], cause: str, named: dict[str, set[int]]) -> None:
    after = dataclasses.replace(before, **sizes)
    message = refusal(before, after)
    assert message.startswith(cause)
    found = suggestions(message)
    assert {key: {size for k, size in found if k == key} for key, _ in found} == named
    small = shaken(before)
    for key, size in found:
        target = changed(after, key, size)
        grown = from_tensors(target, grow(state_of(small), before, target).parameters)
        assert difference(logits(grown), logits(small)) < 1e-12


def test_the_input_is_unharmed_by_a_refusal() -> None:
    state = state_of(shaken(LLAMA))
    parameters = {name: p.clone() for name, p in state.parameters.items()}
    with pytest.raises(GrowthError):
        grow(state, LLAMA, dataclasses.replace(LLAMA, d_model=30))
    assert state.parameters.keys() == parameters.keys()
    assert all(torch.equal(p, state.parameters[name]) for name, p in parameters.items())


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_target_named_is_accepted(data: st.DataObject) -> None:
    """And its neighbour on the way from the refused one is not."""
    n_kv_head = data.draw(st.integers(1, 4))
    spec = SPECS[data.draw(st.sampled_from(["gpt2", "llama", "qwen3"]))]
    n_head = n_kv_head * (1 if spec.family == "gpt2" else data.draw(st.integers(1, 4)))
    before = dataclasses.replace(spec, n_head=n_head, n_kv_head=n_kv_head, d_model=n_head * spec.head_dim)
    more = st.integers(0, 6)
    new_heads = n_head + data.draw(more)
    after = dataclasses.replace(
        before,
        n_head=new_heads,
        n_kv_head=new_heads if spec.family == "gpt2" else n_kv_head + data.draw(more),
        d_model=before.d_model + data.draw(st.integers(0, 40)),
    )
    try:
        check_growth(before, after, Method())
    except GrowthError as error:
        for key, size in suggestions(str(error)):
            check_growth(before, changed(after, key, size), Method())
            nearer = size + (1 if size < getattr(after, key) else -1)
            if changed(after, key, nearer) != before:
                refusal(before, changed(after, key, nearer))


def test_the_nearest_numbers() -> None:
    assert nearest(10, lambda n: n % 4 == 0, at_least=1) == "8 or 12"
    assert nearest(8, lambda n: n % 4 == 0, at_least=1) == "8 or 12"
    assert nearest(10, lambda n: n % 4 == 0, at_least=9) == "12"
    assert nearest(10, lambda n: n == 5, at_least=1) == "5"
    assert nearest(10, lambda n: False, at_least=1) == ""


@pytest.mark.parametrize(("before", "width", "near"), [(GPT2, 1.3, ["3/2"]), (LLAMA, 1.6, ["3/2", "2"]), (GPT2, 2.25, ["2", "5/2"])])
def test_factors_that_split_a_head(before: ModelSpec, width: float, near: list[str]) -> None:
    with pytest.raises(GrowthError, match="nearest that work: ") as caught:
        target_of(before, width)
    assert str(caught.value).split("work: ")[1].split(" or ") == near
    for factor in near:
        check_growth(before, target_of(before, Fraction(factor)), Method())


def test_sizes_that_there_are_none_of() -> None:
    with pytest.raises(GrowthError, match="n_layers: no size that grows; these do: n_layer, d_model"):
        target_of(GPT2, n_layers=3)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_weights_too_coarse_for_the_gate(dtype: torch.dtype) -> None:
    with pytest.raises(GrowthError, match="too coarse") as caught:
        tolerance_of(dtype)
    assert str(dtype).removeprefix("torch.") in str(caught.value)
    assert all(name in str(caught.value) for name in ("float64", "float32", "bfloat16", "float16"))


def test_the_gates_tolerances() -> None:
    assert tolerance_of(torch.float64) == 1e-12
    assert tolerance_of(torch.float32) == 1e-5
    # a coarser type never has a stricter gate, and none is beyond what its rounding can do
    ordered = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    assert [tolerance_of(dtype) for dtype in ordered] == sorted(tolerance_of(dtype) for dtype in ordered)
    assert all(torch.finfo(dtype).eps < tolerance_of(dtype) < 0.05 for dtype in ordered)


def test_the_gate() -> None:
    assert holds(4.0, 4.00003, 1e-5, preserving=True)
    assert not holds(4.0, 4.00005, 1e-5, preserving=True)
    assert not holds(4.0, 3.99, 1e-5, preserving=True)  # a better loss is another function too
    for bad in (math.nan, math.inf):
        assert not holds(4.0, bad, 1e-5, preserving=True)
        assert not holds(4.0, bad, 1e-5, preserving=False)
    assert holds(4.0, 9.0, 1e-5, preserving=False)


def suggestions(message: str) -> list[tuple[str, int]]:
    """Each size named after `nearest that work`, with its key."""
    _, _, tail = message.partition("nearest that work: ")
    found = re.findall(r"(d_model|n_head|n_kv_head) (\d+)(?: or (\d+))?", tail)
    return [(key, int(size)) for key, *sizes in found for size in sizes if size]


def changed(after: ModelSpec, key: str, size: int) -> ModelSpec:
    """The target with one size as suggested; GPT-2's heads fill its width, and heads of their own keys and values keep them."""
    sizes: dict[str, Any] = {key: size}
    if key == "d_model" and after.family == "gpt2" and after.n_head == after.d_model // after.head_dim:
        sizes["n_head"] = size // after.head_dim
    if "n_head" in sizes and after.n_head == after.n_kv_head:
        sizes["n_kv_head"] = sizes["n_head"]
    return dataclasses.replace(after, **sizes)
