"""Shapes to grow from and to, drawn at random for property tests."""

import dataclasses

from hypothesis import strategies as st

from raystage.growth import Method
from raystage.models.spec import ModelSpec
from tests.growth.networks import SPECS

# made by hand, so that nothing is refused: which targets are, is tested apart
families = st.sampled_from(sorted(SPECS))
preserving = st.builds(
    Method,
    placement=st.sampled_from(["stack", "interleave"]),
    new_layers=st.sampled_from(["identity", "fresh"]),
    noise_scale=st.sampled_from([0.0, 0.5, 2.0]),
    seed=st.integers(0, 10),
)


@st.composite
def small_specs(draw: st.DrawFn, min_layers: int = 0) -> ModelSpec:
    """A small model of any family: layers, heads, groups, FFN units, and width where it is free."""
    spec = SPECS[draw(families)]
    n_kv_head = draw(st.integers(1, 3))
    n_head = n_kv_head * (1 if spec.family == "gpt2" else draw(st.integers(1, 3)))
    return dataclasses.replace(
        spec,
        n_layer=draw(st.integers(min_layers, 3)),
        n_kv_head=n_kv_head,
        n_head=n_head,
        d_model=_width(spec, n_head, draw(st.integers(3, 20))),
        d_ff=draw(st.integers(1, 20)),
    )


@st.composite
def larger(draw: st.DrawFn, spec: ModelSpec) -> ModelSpec:
    """Any target of `spec` that keeps its function: each size by itself, whole multiples or not."""
    n_kv_head = spec.n_kv_head + draw(st.integers(0, 4))
    group, copies = spec.n_head // spec.n_kv_head, n_kv_head // spec.n_kv_head
    n_head = n_kv_head * (1 if spec.family == "gpt2" else max(-(-group // copies), draw(st.integers(1, 5))))
    n_head = max(n_head, -(-spec.n_head // n_kv_head) * n_kv_head)
    return dataclasses.replace(
        spec,
        n_layer=spec.n_layer + draw(st.integers(0, 4)),
        n_kv_head=n_kv_head,
        n_head=n_head,
        d_model=_width(spec, n_head, spec.d_model + draw(st.integers(0, 30))),
        d_ff=spec.d_ff + draw(st.integers(0, 30)),
        context_length=spec.context_length + draw(st.integers(0, 20)),
    )


def _width(spec: ModelSpec, n_head: int, at_least: int) -> int:
    """What the classes ask for: GPT-2 heads that fill the width, Llama heads that divide it, Qwen3 nothing."""
    if spec.family == "gpt2":
        return n_head * spec.head_dim
    return -(-at_least // n_head) * n_head if spec.family == "llama" else at_least
