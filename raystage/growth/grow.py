"""Growth of a whole training state by one change of its sizes, parameter by parameter."""

import functools
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor
from transformers import PretrainedConfig

from raystage.growth.axis_map import AxisMap, map_axis
from raystage.growth.check import check_growth
from raystage.growth.depth import Layer, layers_after
from raystage.growth.fresh import fresh_block
from raystage.growth.method import Method
from raystage.growth.optimizer_state import Meaning, meanings
from raystage.growth.position import grow_position_state, grow_positions
from raystage.growth.symmetry import add_cancelling_noise, seed_of
from raystage.growth.tensors import TrainingTensors
from raystage.growth.width import grow_state, grow_value
from raystage.models.axes import Axis, Parameter
from raystage.models.family import ModelSpec, get_family

Gather = Callable[[Tensor], Tensor]
Place = Callable[[str, str | None, Tensor], Tensor]

_OLD = Layer(None, is_new=False)


def grow(
    state: TrainingTensors,
    before: ModelSpec,
    after: ModelSpec,
    method: Method | None = None,
    *,
    config: PretrainedConfig | None = None,
    gather: Gather = lambda tensor: tensor,
    place: Place = lambda name, field, tensor: tensor,
) -> TrainingTensors:
    """The training state of a model of sizes `after` that computes what `state` does at `before`.

    README.md beside this file says what is preserved, and how exactly. `config`: of the grown model, for fresh layers;
    default: the family's for `after`. For states sharded over ranks, `gather` makes a tensor whole and `place` takes a grown one
    away, with its parameter's name and its field of optimizer state (None: the parameter itself). The input is unchanged and
    the result shares no memory with it. Raises GrowthError for an impossible growth or an unknown optimizer, KeyError for
    a parameter without axes.
    """
    growth = Growth(before, after, method or Method(), config)
    known = meanings(state.optimizer)
    parameters, states = {}, {}
    for name, source, layer in growth.parameters(state.parameters):
        if source is None:
            sample = next(iter(state.parameters.values()))
            parameters[name] = place(name, None, growth.fresh_value(name).to(sample.device, sample.dtype))
            continue
        parameters[name] = place(name, None, growth.value(name, gather(state.parameters[source]), layer))
        if growth.keeps_state(layer):
            fields = state.states.get(source, {})
            states[name] = {field: place(name, field, growth.state(name, gather(tensor), known[field])) for field, tensor in fields.items()}
    return TrainingTensors(parameters, {name: fields for name, fields in states.items() if fields}, state.optimizer)


class Growth:
    """One change of sizes, as functions of a single tensor. Raises GrowthError when there is no such growth."""

    def __init__(self, before: ModelSpec, after: ModelSpec, method: Method, config: PretrainedConfig | None = None) -> None:
        check_growth(before, after, method)
        family = get_family(before.family)
        self.before, self.after, self.method = before, after, method
        self.axes = family.axes(before)
        self.layers = layers_after(before.n_layer, after.n_layer, method.placement)
        self._config = config or family.config(after)
        self._map = functools.cache(lambda axis: map_axis(axis, before, after, self.axes.norm))
        # the block drawn last: its parameters are asked for one after the other
        self._fresh_block = functools.lru_cache(maxsize=1)(lambda number: fresh_block(self._config, after, number, method.seed))

    def parameters(self, names: Iterable[str]) -> Iterator[tuple[str, str | None, Layer]]:
        """Every parameter of the grown model: its name, the old one it comes from (None: fresh), and its layer."""
        in_block: dict[int, list[str]] = {}
        for name in names:
            number, rest = self.axes.split(name)
            if number is None:
                yield name, name, _OLD
            else:
                in_block.setdefault(number, []).append(rest)
        for number, layer in enumerate(self.layers):
            prefix = self.axes.block_prefix
            if layer.source is None or (layer.is_new and self.method.new_layers == "fresh"):
                yield from ((prefix.format(number) + rest, None, layer) for rest in self._fresh_block(number))
            else:
                source = prefix.format(layer.source)
                yield from ((prefix.format(number) + rest, source + rest, layer) for rest in in_block[layer.source])

    def value(self, name: str, value: Tensor, layer: Layer = _OLD) -> Tensor:
        """The grown parameter `name` from the old one that it comes from."""
        parameter = self.axes.lookup(name)
        maps = self._maps(parameter)
        if layer.is_new and self.method.new_layers == "identity" and parameter.output_projection:
            return value.new_zeros([m.new_size for m in maps])
        if self._grows_positions(parameter):
            value = grow_positions(value, self.after.context_length, self.method.positions)
        grown = grow_value(value, maps)
        add_cancelling_noise(grown, parameter, maps, self.method.noise_scale, seed_of(self.method.seed, name))
        return grown

    def state(self, name: str, state: Tensor, meaning: Meaning) -> Tensor:
        """One tensor of the grown parameter's optimizer state from the old one's."""
        parameter = self.axes.lookup(name)
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

    def _maps(self, parameter: Parameter) -> list[AxisMap]:
        return [self._map(axis) for axis in parameter.axes]

    def _grows_positions(self, parameter: Parameter) -> bool:
        return Axis("position") in parameter.axes and self.after.context_length > self.before.context_length
