"""FSDP2: a trainee whose parameters are spread over the ranks, made fresh, empty, or by growth of another one."""

import dataclasses
import itertools

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from raystage.config.schema import Config
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.growth.grow import Growth, grow_parameters, grow_states
from raystage.growth.method import Method
from raystage.growth.sharded import allocate, full, sharded_like
from raystage.growth.tensors import OptimizerState, TrainingTensors
from raystage.models.checkpointing import checkpoint_blocks
from raystage.models.count import count_parameters
from raystage.models.family import blocks_of, get_family
from raystage.models.spec import ModelSpec
from raystage.models.trainee import Trainee
from raystage.training.checkpoint_files import StoredTensors, flatten_states, split_key
from raystage.training.errors import CheckpointError
from raystage.training.tensor_pieces import fill_rows, read_tensors

# parameters from one pass to the next, and gradients from one micro-batch to the next, stay whole up to this size; beyond it, memory counts
# for more than traffic
_WHOLE_BYTES = 2**30


def shards(config: Config, ranks: Ranks) -> bool:
    """Whether a run's state is spread over its ranks."""
    return config.training.strategy == "fsdp" and ranks.world_size > 1


@dataclasses.dataclass(frozen=True)
class Sharding:
    """How a trainee is sharded: over all ranks in a row, on the process group that is there.

    `precision`: in which gradients travel. Parameters travel in their own: validation and the gate of growth take them whole in float32.
    """

    mesh: DeviceMesh
    device: torch.device
    checkpointed: bool
    precision: MixedPrecisionPolicy


def sharding_of(config: Config, device: Device, ranks: Ranks) -> Sharding:
    """That of a run."""
    mesh = init_device_mesh(device.torch_device.type, (ranks.world_size,))
    precision = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16 if config.training.reduce_precision == "bf16" else None)
    checkpointed = config.training.activation_checkpointing == "full"
    return Sharding(mesh, device.torch_device, checkpointed, precision)


def stays_whole(n_parameters: int) -> bool:
    """Whether a sharded model of so many parameters is small enough to be gathered, and its gradients sent, once a step."""
    return 4 * n_parameters <= _WHOLE_BYTES


def shard(trainee: Trainee, how: Sharding) -> Trainee:
    """Shards it in place, each block on its own, and moves it to the device of the mesh; every rank has the same values.

    The next block is asked for before a block computes; backward, FSDP2 does so by itself.
    """
    blocks = blocks_of(trainee.model, trainee.spec)
    checkpoint_blocks(trainee.model, trainee.spec, len(blocks) if how.checkpointed else 0)
    reshard_after_forward = not stays_whole(count_parameters(trainee.model))
    for block in blocks:
        fully_shard(block, mesh=how.mesh, reshard_after_forward=reshard_after_forward, mp_policy=how.precision)
    # around the loss: the head is used outside of the model's own forward, and first of all in the backward pass
    fully_shard(trainee, mesh=how.mesh, reshard_after_forward=False, mp_policy=how.precision)
    register_fsdp_forward_method(trainee, "losses")
    for module, following in itertools.pairwise([trainee, *blocks]):
        assert isinstance(module, FSDPModule)
        assert isinstance(following, FSDPModule)
        module.set_modules_to_forward_prefetch([following])
    return trainee


def empty_sharded(spec: ModelSpec, how: Sharding) -> Trainee:
    """A sharded trainee whose parameters have memory and no values yet."""
    family = get_family(spec.family)
    trainee = Trainee(family.build_empty(family.config(spec)), spec)
    allocate(trainee.model, lambda _: shard(trainee, how), how.device)
    return trainee


def grow_sharded(
    tensors: TrainingTensors, before: ModelSpec, after: ModelSpec, method: Method, how: Sharding
) -> tuple[Trainee, TrainingTensors]:
    """The grown trainee and its tensors, from those of a sharded one, which stay; one whole parameter in memory at a time."""
    growth = Growth(before, after, method)
    sources = {name: source for name, source, _ in growth.parameters(tensors.parameters)}
    trainee = Trainee(get_family(after.family).build_empty(growth.config), after)
    _, place = sharded_like(trainee.model, lambda _: shard(trainee, how), tensors.parameters, sources)
    parameters = grow_parameters(growth, tensors.parameters, full, place)
    states = grow_states(growth, tensors.parameters, tensors.states, tensors.optimizer, full, place)
    return trainee, TrainingTensors(parameters, states, tensors.optimizer)


def load_shards(model: nn.Module, stored: StoredTensors) -> TrainingTensors:
    """Fills the sharded model with its rows of a checkpoint's parameters; gives them, and the optimizer's state cut alike.

    Raises CheckpointError for the tensors of another model.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    if odd := sorted(set(parameters) ^ set(stored.parameters)):
        raise CheckpointError(f"the checkpoint holds the tensors of another model ({odd[0]} and {len(odd) - 1} more differ)")
    for name, header in stored.parameters.items():
        if header.shape != tuple(parameters[name].shape):
            raise CheckpointError(f"{name}: shape {header.shape} in the checkpoint, the model has {tuple(parameters[name].shape)}")
    fill_rows(stored.parameters, {name: _rows(parameter) for name, parameter in parameters.items()})
    states: dict[str, OptimizerState] = {}
    fields = stored.optimizer.fields
    for key in fields:
        field, name = split_key(key)
        states.setdefault(name, {})[field] = torch.empty_like(parameters[name]) if fields[key].shape else torch.empty(())
    cut = {key: tensor for key, tensor in flatten_states(states).items() if isinstance(tensor, DTensor)}
    fill_rows(fields, {key: _rows(tensor) for key, tensor in cut.items()})
    for key, scalar in read_tensors(fields, set(fields) - set(cut)).items():
        field, name = split_key(key)
        states[name][field] = scalar
    return TrainingTensors(parameters, states, stored.optimizer.kind)


def _rows(tensor: Tensor) -> tuple[int, Tensor]:
    """This rank's rows of a sharded tensor, and the number of the first one: as torch.chunk cuts, so the last may have fewer, or none."""
    assert isinstance(tensor, DTensor)
    local, mesh = tensor.to_local(), tensor.device_mesh
    first = min(len(tensor), -(-len(tensor) // mesh.size()) * mesh.get_local_rank())
    assert len(local) == min(len(tensor) - first, -(-len(tensor) // mesh.size()))
    return first, local


def at_rest(module: nn.Module) -> None:
    """Puts parameters that stay whole after a pass without gradients back into shards."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
