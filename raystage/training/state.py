"""The state of training on one rank: the model at its present shape, the optimizer, the counts."""

import dataclasses

from raystage.config.schema import Config
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.growth.tensors import TrainingTensors
from raystage.models.checkpointing import checkpoint_blocks
from raystage.models.family import build_model, build_with, get_family
from raystage.models.spec import ModelSpec
from raystage.models.trainee import Trainee
from raystage.pacing.stage import Shape, Taken
from raystage.training.checkpoint_files import StoredTensors
from raystage.training.counters import Counters
from raystage.training.errors import CheckpointError
from raystage.training.machinery import Machinery, equip
from raystage.training.memory_fit import n_checkpointed
from raystage.training.sharding import empty_sharded, load_shards, shard, sharding_of, shards


@dataclasses.dataclass(frozen=True)
class TrainState:
    """`taken`: changes of the plan that lie behind, by track, refused ones included."""

    machinery: Machinery
    shape: Shape
    taken: Taken
    counters: Counters

    @property
    def position(self) -> int:
        """How many changes of the plan lie behind."""
        return sum(self.taken)


def assemble(
    spec: ModelSpec,
    config: Config,
    device: Device,
    ranks: Ranks,
    tensors: TrainingTensors | None = None,
    n_workers: int | None = None,
) -> Machinery:
    """The model of `spec` on the device, with these whole tensors, which become its own, or else fresh ones from the run's seed.

    `n_workers`: among whom it is to train, where these are more than `ranks`.
    Raises ValueError for the tensors of another model.
    """
    family = get_family(spec.family)
    model = build_with(family.config(spec), family, tensors.parameters) if tensors else build_model(spec, config.seed)
    if shards(config, ranks):
        assert tensors is None or not tensors.states, "the state of a sharded model is read in shards"
        trainee = shard(Trainee(model, spec), sharding_of(config, device, ranks))
    else:
        model.to(device.torch_device)
        model.tie_weights()  # type: ignore[operator]  # parameters that become tensors of another kind, as XLA's, come untied
        for p in model.parameters():
            device.whole(p)
        checkpoint_blocks(model, spec, n_checkpointed(config, spec, n_workers or ranks.world_size))
        trainee = Trainee(model, spec)
    return equip(trainee, tensors, config, device, ranks)


def assemble_stored(spec: ModelSpec, config: Config, device: Device, ranks: Ranks, stored: StoredTensors) -> Machinery:
    """The model of `spec` with the tensors of a checkpoint, whoever wrote it; of a sharded one only this rank's rows are read.

    Raises ValueError for the tensors of another model, and on every rank where one cannot read its rows.
    """
    if not shards(config, ranks):
        return assemble(spec, config, device, ranks, stored.load())
    trainee = empty_sharded(spec, sharding_of(config, device, ranks))
    tensors: TrainingTensors | CheckpointError
    try:
        tensors = load_shards(trainee.model, stored)
    except CheckpointError as error:
        tensors = error
    all_read = ranks.smallest([int(not isinstance(tensors, CheckpointError))]) == [1]
    if isinstance(tensors, CheckpointError):
        raise tensors
    if not all_read:
        raise CheckpointError("another worker cannot read its rows of the checkpoint; its own message says why")
    return equip(trainee, tensors, config, device, ranks)
