"""Growth of a transformers model and a torch optimizer in one call, for one's own training loop."""

from collections import Counter
from fractions import Fraction
from typing import Any, cast

import torch
from torch import nn

from raystage.growth.errors import GrowthError
from raystage.growth.grow import Growth, grow
from raystage.growth.method import Method
from raystage.growth.optimizer_state import meanings
from raystage.growth.sharded import Shard, full, is_sharded, sharded_like
from raystage.growth.sizes import target_of
from raystage.growth.tensors import TrainingTensors
from raystage.models.family import build_with, get_family


def grow_model(
    model: Any,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    method: Method | None = None,
    reset_optimizer: bool = False,
    shard: Shard | None = None,
    width: Fraction | float | None = None,
    **sizes: Any,
) -> tuple[Any, torch.optim.Optimizer | None]:
    """A larger transformers model and an optimizer of the same class, with the same groups and its state carried over.

    `width`: factor of hidden size, heads and FFN units together; `sizes`: single sizes by the names of ModelSpec
    (n_layer, d_model, n_head, n_kv_head, d_ff, context_length, rope_theta). Both given, a size counts. New layers join
    the groups of the layers that they come from. `reset_optimizer`: drop the optimizer's state, known or not. A model that is
    sharded by FSDP2 needs `shard`, which shards the grown one the same way (in place). The arguments are unchanged; a compiled
    or DDP-wrapped model is to be unwrapped before and wrapped after. Raises GrowthError before anything is made.
    """
    method, config = method or Method(), model.config
    family = get_family(config.model_type)
    before = family.read(config)
    after = target_of(before, width, **sizes)
    growth = Growth(before, after, method)
    state = read_state(model, None if reset_optimizer else optimizer)
    grown_config = family.resize(config, after, [layer.source for layer in growth.layers])
    if not is_sharded(state.parameters):
        tensors = grow(state, before, after, method, config=grown_config)
        grown = build_with(grown_config, family, tensors.parameters).train(model.training)
    else:
        if shard is None:
            raise GrowthError("a sharded model: give shard=, the function that shards the grown one")
        grown, place = sharded_like(family.build_empty(grown_config), shard, state)
        tensors = grow(state, before, after, method, config=grown_config, gather=full, place=place)
        grown.train(model.training)
    if optimizer is None:
        return grown, None
    sources = {name: source for name, source, _ in growth.parameters(state.parameters)}
    return grown, _new_optimizer(optimizer, model, grown, sources, tensors)


def read_state(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> TrainingTensors:
    """Parameters and optimizer state by name, not copied. Parameters never stepped have no state. Raises GrowthError for an
    optimizer whose state growth does not know."""
    named = dict(model.named_parameters())
    parameters = {name: p.detach() for name, p in named.items()}
    if optimizer is None:
        return TrainingTensors(parameters)
    kind, states = type(optimizer).__name__, {}
    known = meanings(kind)
    for name, p in named.items():
        fields = {field: value for field, value in optimizer.state.get(p, {}).items() if value is not None}
        if strange := sorted(set(fields) - set(known)):
            raise GrowthError(
                f"optimizer {kind}: what its {strange[0]!r} means is unknown, so growth cannot carry it; reset_optimizer drops it"
            )
        if fields:
            states[name] = fields
    return TrainingTensors(parameters, states, kind)


def _new_optimizer(
    old: torch.optim.Optimizer, model: nn.Module, grown: nn.Module, sources: dict[str, str | None], tensors: TrainingTensors
) -> torch.optim.Optimizer:
    """The same class over the same groups; state goes in by hand, as load_state_dict would copy it."""
    group_of = {id(p): number for number, group in enumerate(old.param_groups) for p in group["params"]}
    old_groups = {name: group_of[id(p)] for name, p in model.named_parameters() if id(p) in group_of}
    by_dims: dict[int, Counter[int]] = {}
    for name, p in model.named_parameters():
        if name in old_groups:
            by_dims.setdefault(p.dim(), Counter())[old_groups[name]] += 1
    members: list[list[nn.Parameter]] = [[] for _ in old.param_groups]
    for name, p in grown.named_parameters():
        source = sources[name]
        if source in old_groups:
            members[old_groups[source]].append(p)
        elif source is None:  # a fresh layer goes where most tensors of as many dimensions are
            members[by_dims[p.dim()].most_common(1)[0][0] if p.dim() in by_dims else 0].append(p)
    groups = [{**group, "params": params} for group, params in zip(old.param_groups, members, strict=True)]
    new: torch.optim.Optimizer = cast(Any, type(old))(groups)
    for name, p in grown.named_parameters():
        if name in tensors.states:
            new.state[p] = dict(tensors.states[name])
    return new
