"""Growth of a whole training state by one change of its sizes, parameter by parameter."""

import functools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from transformers import PretrainedConfig

from raystage.growth.axis_map import AxisMap, map_axis
from raystage.growth.check import check_growth
from raystage.growth.depth import Layer, layers_after
from raystage.growth.errors import GrowthError
from raystage.growth.fresh import fresh_block
from raystage.growth.method import Method
from raystage.growth.optimizer_state import Meaning, meanings
from raystage.growth.position import grow_position_state, grow_positions
from raystage.growth.symmetry import add_cancelling_noise, seed_of
from raystage.growth.tensors import OptimizerState, TrainingTensors
from raystage.growth.width import grow_state, grow_value
from raystage.models.axes import Axis, Parameter
from raystage.models.family import get_family
from raystage.models.spec import ModelSpec

Gather = Callable[[Tensor], Tensor]
Place = Callable[[str, str | None, Tensor], Tensor]

_OLD = Layer(None, is_new=False)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _here(name: str, field: str | None, tensor: Tensor) -> Tensor:
    return tensor


def grow(
    state: TrainingTensors, before: ModelSpec, after: ModelSpec, method: Method | None = None, config: PretrainedConfig | None = None
) -> TrainingTensors:
    """The training state of a model of sizes `after` that computes what `state` does at `before`.

    README.md beside this file says what is preserved, and how exactly. `config`: of the small model, which fresh layers are
    drawn by; default: the family's own. The input is unchanged and the result shares no memory with it. Raises GrowthError for an
    impossible growth, an unknown optimizer or a parameter without axes.
    """
    growth = Growth(before, after, method or Method(), config)
    meanings(state.optimizer)  # refused before anything is grown
    parameters = grow_parameters(growth, state.parameters)
    return TrainingTensors(parameters, grow_states(growth, state.parameters, state.states, state.optimizer), state.optimizer)


def grow_parameters(growth: "Growth", parameters: dict[str, Tensor], gather: Gather = _as_it_is, place: Place = _here) -> dict[str, Tensor]:
    """The grown parameters by name. For those sharded over ranks, `gather` makes a tensor whole and `place` takes a grown one
    away, with its parameter's name and its field of optimizer state (None: the parameter itself)."""
    sample = next(iter(parameters.values()))
    grown = {}
    for name, source, layer in growth.parameters(parameters):
        if growth.is_fresh(layer):
            value = growth.fresh_value(name).to(sample.device, sample.dtype if source is None else parameters[source].dtype)
        else:
            assert source is not None
            value = growth.value(name, gather(parameters[source]), layer)
        grown[name] = place(name, None, value)
    return grown


def grow_states(
    growth: "Growth",
    parameters: dict[str, Tensor],
    states: dict[str, OptimizerState],
    optimizer: str,
    gather: Gather = _as_it_is,
    place: Place = _here,
) -> dict[str, OptimizerState]:
    """The grown state of an optimizer of that class name, for those of the grown parameters that take theirs over."""
    known = meanings(optimizer) if states else {}
    grown = {}
    for name, source, layer in growth.parameters(parameters):
        if source in states and growth.keeps_state(layer):
            fields = states[source].items()
            grown[name] = {field: place(name, field, growth.state(name, gather(tensor), known[field])) for field, tensor in fields}
    return grown


class Growth:
    """One change of sizes, as functions of a single tensor. `config`: of the small model; default: the family's own.

    Raises GrowthError when there is no such growth.
    """

    def __init__(self, before: ModelSpec, after: ModelSpec, method: Method, config: PretrainedConfig | None = None) -> None:
        check_growth(before, after, method)
        family = get_family(before.family)
        self.before, self.after, self.method = before, after, method
        self.axes = family.axes(before)
        self.layers = layers_after(before.n_layer, after.n_layer, method.placement)
        sources = [layer.source for layer in self.layers]
        self.config = family.resize(config or family.config(before), after, sources)  # the grown model's
        self._map = functools.cache(lambda axis: map_axis(axis, before, after, self.axes.norm))
        # the block drawn last: its parameters are asked for one after the other
        self._fresh_block = functools.lru_cache(maxsize=1)(lambda number: fresh_block(self.config, after, number, method.seed))

    def parameters(self, names: Iterable[str]) -> Iterator[tuple[str, str | None, Layer]]:
        """Every parameter of the grown model: its name, the old one in whose place it comes (None: there is none), and its layer.

        Raises GrowthError for a parameter that the family does not know.
        """
        in_block: dict[int, list[str]] = {}
        for name in names:
            self._parameter(name)
            number, rest = self.axes.split(name)
            if number is None:
                yield name, name, _OLD
            else:
                in_block.setdefault(number, []).append(rest)
        prefix = self.axes.block_prefix
        for number, layer in enumerate(self.layers):
            if layer.source is None:
                yield from ((prefix.format(number) + rest, None, layer) for rest in self._fresh_block(number))
            else:
                source = prefix.format(layer.source)
                yield from ((prefix.format(number) + rest, source + rest, layer) for rest in in_block[layer.source])

    def is_fresh(self, layer: Layer) -> bool:
        """Whether its values are drawn anew, whatever layer it comes from."""
        return layer.is_new and (layer.source is None or self.method.new_layers == "fresh")

    def value(self, name: str, value: Tensor, layer: Layer = _OLD) -> Tensor:
        """The grown parameter `name` from the old one that it comes from."""
        parameter = self._parameter(name)
        maps = self._maps(parameter)
        if layer.is_new and self.method.new_layers == "identity" and parameter.output_projection:
            return value.new_zeros([m.new_size for m in maps])
        dtype = value.dtype
        value = value.to(torch.promote_types(dtype, torch.float32))  # half precision would round the noise's two halves apart
        if self._grows_positions(parameter):
            value = grow_positions(value, self.after.context_length, self.method.positions)
        grown = grow_value(value, maps)
        add_cancelling_noise(grown, parameter, maps, self.method.noise_for(dtype), seed_of(self.method.seed, name))
        return grown.to(dtype)

    def state(self, name: str, state: Tensor, meaning: Meaning) -> Tensor:
        """One tensor of the grown parameter's optimizer state from the old one's."""
        parameter = self._parameter(name)
        if self._grows_positions(parameter):
            state = grow_position_state(state, self.after.context_length, self.method.positions, meaning)
        return grow_state(state, self._maps(parameter), meaning)

    def keeps_state(self, layer: Layer) -> bool:
        """Whether a layer's parameters take over optimizer state: a step count carried into a layer whose means are empty
        would take steps several times the learning rate, so layers that start switched off start with none."""
        return not layer.is_new or self.method.new_layers == "copy"

    def fresh_value(self, name: str) -> Tensor:
        """The initial value of a parameter of a fresh layer."""
        number, rest = self.axes.split(name)
        assert number is not None
        return self._fresh_block(number)[rest]

    def _parameter(self, name: str) -> Parameter:
        try:
            return self.axes.lookup(name)
        except KeyError:
            raise GrowthError(f"parameter {name!r}: no {self.before.family} has one, so growth does not know its axes") from None

    def _maps(self, parameter: Parameter) -> list[AxisMap]:
        return [self._map(axis) for axis in parameter.axes]

    def _grows_positions(self, parameter: Parameter) -> bool:
        return Axis("position") in parameter.axes and self.after.context_length > self.before.context_length
