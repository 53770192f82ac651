"""Growth of a transformers model and its torch optimizers in one call, for one's own training loop."""

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor, nn

from raystage.growth.errors import GrowthError
from raystage.growth.grow import Growth, grow_parameters, grow_states
from raystage.growth.method import Method
from raystage.growth.optimizer_state import meanings
from raystage.growth.sharded import Shard, check_cut, full, is_sharded, sharded_like
from raystage.growth.sizes import target_of
from raystage.growth.tensors import OptimizerState
from raystage.models.family import build_with, get_family

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None


def grow_model(
    model: Any,
    optimizer: Optimizers = None,
    *,
    method: Method | None = None,
    reset_optimizer: bool = False,
    shard: Shard | None = None,
    width: Fraction | float | None = None,
    **sizes: Any,
) -> tuple[Any, Any]:
    """A larger transformers model, and optimizers of the same classes with the same groups and their state carried over.

    `optimizer`: one, several (Muon for the matrices and AdamW for the rest) or none; it comes back in the same form.
    `width`: factor of hidden size, heads and FFN units together; `sizes`: single sizes by the names of ModelSpec (n_layer,
    d_model, n_head, n_kv_head, d_ff, context_length, rope_theta). Both given, a size counts. New layers join the groups of the
    layers that they come from, and are frozen where those are. `reset_optimizer`: drop the state, known or not. A model sharded by
    FSDP2 needs `shard`, which shards the grown one the same way, in place. The arguments are unchanged; a compiled or DDP-wrapped
    model is to be unwrapped before and wrapped after. Raises GrowthError before anything is made.
    """
    optimizers = [] if optimizer is None else [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
    growth = _growth_of(model, method or Method(), width, sizes)
    family = get_family(growth.before.family)
    named = dict(model.named_parameters())
    parameters = {name: p.detach() for name, p in named.items()}
    sources = {name: source for name, source, _ in growth.parameters(parameters)}
    states = [{} if reset_optimizer else _states_of(named, old) for old in optimizers]
    if not is_sharded(parameters):
        values = grow_parameters(growth, parameters)
        grown: Any = build_with(growth.config, family, values).to(model.device)  # rotary frequencies are made on the CPU
        grown_states = [grow_states(growth, parameters, state, type(old).__name__) for old, state in zip(optimizers, states, strict=True)]
    else:
        if shard is None:
            raise GrowthError("a sharded model: give shard=, the function that shards the grown one")
        for old, state in zip(optimizers, states, strict=True):
            check_cut(parameters, state, type(old).__name__)
        empty = family.build_empty(growth.config)
        grown, place = sharded_like(empty, shard, parameters, sources)
        grow_parameters(growth, parameters, full, place)
        grown_states = [
            grow_states(growth, parameters, state, type(old).__name__, full, place) for old, state in zip(optimizers, states, strict=True)
        ]
    _carry_over(model, grown, named, sources)
    made = [_new_optimizer(old, named, grown, sources, state) for old, state in zip(optimizers, grown_states, strict=True)]
    if optimizer is None:
        return grown, None
    return grown, made[0] if isinstance(optimizer, torch.optim.Optimizer) else made


def _growth_of(model: Any, method: Method, width: Fraction | float | None, sizes: dict[str, Any]) -> Growth:
    """Raises GrowthError for a model that growth does not know."""
    try:
        before = get_family(model.config.model_type).read(model.config)
    except ValueError as error:
        raise GrowthError(str(error)) from None
    return Growth(before, target_of(before, width, **sizes), method, model.config)


def _states_of(named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, OptimizerState]:
    """Its state by parameter name; a parameter never stepped has none. Raises GrowthError for state that growth does not know."""
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
    return states


def _carry_over(model: Any, grown: Any, named: dict[str, nn.Parameter], sources: dict[str, str | None]) -> None:
    """What is no tensor: the mode, what is frozen, how to generate, whether activations are recomputed."""
    grown.train(model.training)
    for name, p in grown.named_parameters():
        source = sources[name]
        p.requires_grad_(source is None or named[source].requires_grad)
    if getattr(model, "generation_config", None) is not None:
        grown.generation_config = model.generation_config
    if getattr(model, "is_activation_checkpointing", False):
        grown.activation_checkpointing_enable()


def _new_optimizer(
    old: torch.optim.Optimizer,
    named: dict[str, nn.Parameter],
    grown: nn.Module,
    sources: dict[str, str | None],
    states: dict[str, OptimizerState],
) -> torch.optim.Optimizer:
    """The same class over the same groups; state goes in by hand, since load_state_dict would copy it."""
    names = {id(p): name for name, p in named.items()}
    new_named = dict(grown.named_parameters())
    group_of = {names[id(p)]: number for number, group in enumerate(old.param_groups) for p in group["params"] if id(p) in names}
    members: list[list[tuple[str, Tensor]]] = [
        [(f"outside the model {i}", p) for i, p in enumerate(group["params"]) if id(p) not in names] for group in old.param_groups
    ]
    for name, p in new_named.items():
        source = sources[name]
        group = _group_of_like(p, named, group_of) if source is None else group_of.get(source)
        if group is not None:
            members[group].append((name, p))
    groups = [_with_members(group, parameters) for group, parameters in zip(old.param_groups, members, strict=True)]
    new: torch.optim.Optimizer = cast(Any, type(old))(groups)
    for name, fields in states.items():
        new.state[new_named[name]] = dict(fields)
    for p in (p for group in old.param_groups for p in group["params"] if id(p) not in names and p in old.state):
        new.state[p] = {field: value.clone() if isinstance(value, Tensor) else value for field, value in old.state[p].items()}
    return new


def _group_of_like(p: Tensor, named: dict[str, nn.Parameter], group_of: dict[str, int]) -> int | None:
    """The group that most tensors of as many dimensions are in: for the layers of a model that had none."""
    votes = Counter(group_of.get(name) for name, known in named.items() if known.dim() == p.dim())
    return votes.most_common(1)[0][0] if votes else 0


def _with_members(group: dict[str, Any], members: Iterable[tuple[str, Tensor]]) -> dict[str, Any]:
    """The group's settings over other parameters. A scheduler's `initial_lr` stays behind: a new one sets it anew."""
    kept = {key: value.clone() if isinstance(value, Tensor) else value for key, value in group.items() if key != "initial_lr"}
    has_names = kept.pop("param_names", None) is not None
    return {**kept, "params": [(name, p) for name, p in members] if has_names else [p for _, p in members]}
