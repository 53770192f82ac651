"""What trains at one shape: the model, its wrapper for several ranks, and its optimizer."""

import dataclasses

import torch
from torch import nn

from raystage.config.schema import Config
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.growth.tensors import TrainingTensors
from raystage.models.compiled_blocks import compile_blocks
from raystage.models.count import count_parameters
from raystage.models.spec import ModelSpec
from raystage.models.trainee import Trainee
from raystage.training.optimizer import begin_states, make_optimizer, put_states, read_tensors
from raystage.training.sharding import at_rest, shards


@dataclasses.dataclass(frozen=True)
class Machinery:
    """The model at one shape: the bare trainee, the same wrapped for gradient exchange, and its optimizer."""

    spec: ModelSpec
    trainee: Trainee
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    n_parameters: int

    @property
    def model(self) -> nn.Module:
        return self.trainee.model

    def tensors(self) -> TrainingTensors:
        at_rest(self.trainee)
        return read_tensors(self.model, self.optimizer)


def equip(trainee: Trainee, tensors: TrainingTensors | None, config: Config, device: Device, ranks: Ranks) -> Machinery:
    """A trainee on its device, and sharded where it is to be, with its optimizer, which takes over the states of `tensors`."""
    optimizer = make_optimizer(trainee.model, config.training.optimizer, device.is_lazy)
    if tensors is not None:
        put_states(tensors, trainee.model, optimizer, device.whole)
    if device.is_lazy:
        begin_states(trainee.model, optimizer, device.whole)
    wrapped: nn.Module = trainee.train()
    if config.training.compile and not device.is_lazy:
        compile_blocks(trainee.model, trainee.spec)
    if ranks.world_size > 1 and not shards(config, ranks):
        wrapped = device.wrap(wrapped, config.training.reduce_precision, config.training.bucket_mib)
    return Machinery(trainee.spec, trainee, wrapped, optimizer, count_parameters(trainee.model))
