"""The files of a checkpoint: tensors whole, as rank 0 writes them, or in shards, one file of each kind a rank; read back as either."""

import dataclasses
import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from raystage.growth.tensors import OptimizerState, TrainingTensors
from raystage.training.errors import CheckpointError
from raystage.training.tensor_pieces import Header, read_file_headers, read_metadata, read_tensors
from raystage.training.weight_files import MODEL_FILE, read_headers, shards_in

OPTIMIZER_FILE, OPTIMIZER_SHARDS = "optimizer.safetensors", "optimizer-shards"
OPTIMIZER_CLASS_FILE = f"{OPTIMIZER_SHARDS}/class.json"  # a whole optimizer.safetensors has it as metadata


@dataclasses.dataclass(frozen=True)
class OptimizerHeaders:
    """`kind`: class name; `fields`: headers of the state's tensors, as `field:parameter`."""

    kind: str
    fields: dict[str, Header]


@dataclasses.dataclass(frozen=True)
class StoredTensors:
    """A checkpoint's tensors by their headers; values are read when they are asked for."""

    parameters: dict[str, Header]
    optimizer: OptimizerHeaders

    def load(self) -> TrainingTensors:
        """All of them, on the CPU. Raises CheckpointError."""
        return TrainingTensors(read_tensors(self.parameters, self.parameters), load_states(self.optimizer), self.optimizer.kind)


def open_tensors(folder: Path) -> StoredTensors:
    """The tensors of a checkpoint. Raises CheckpointError."""
    return StoredTensors(read_headers(folder), open_optimizer(folder))


def load_tensors(folder: Path) -> TrainingTensors:
    """The parameters and optimizer state of a checkpoint, on the CPU. Raises CheckpointError."""
    return open_tensors(folder).load()


def open_optimizer(folder: Path) -> OptimizerHeaders:
    """The optimizer's state of a checkpoint. Raises CheckpointError."""
    whole, class_file = folder / OPTIMIZER_FILE, folder / OPTIMIZER_CLASS_FILE
    if whole.is_file() or not class_file.is_file():
        return OptimizerHeaders(read_metadata(whole).get("optimizer", "of an unknown kind"), read_file_headers([whole]))
    try:
        kind = str(json.loads(class_file.read_text())["optimizer"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{class_file}: cannot be read ({type(error).__name__}: {error})") from None
    return OptimizerHeaders(kind, read_file_headers(shards_in(folder / OPTIMIZER_SHARDS)))


def load_states(optimizer: OptimizerHeaders) -> dict[str, OptimizerState]:
    """The optimizer's state by parameter. Raises CheckpointError."""
    states: dict[str, OptimizerState] = {}
    for key, tensor in read_tensors(optimizer.fields, optimizer.fields).items():
        field, name = split_key(key)
        states.setdefault(name, {})[field] = tensor
    return states


def flatten_states(states: dict[str, OptimizerState]) -> dict[str, Tensor]:
    """As they are stored: by `field:parameter`."""
    return {f"{field}:{name}": tensor for name, fields in states.items() for field, tensor in fields.items()}


def split_key(key: str) -> tuple[str, str]:
    """Field and parameter of a stored name."""
    field, _, name = key.partition(":")
    return field, name


def write_whole(folder: Path, tensors: TrainingTensors) -> list[str]:
    """Writes the two files of whole tensors; their names."""
    save_file(_contiguous(tensors.parameters), folder / MODEL_FILE, metadata={"format": "pt"})
    save_file(_contiguous(flatten_states(tensors.states)), folder / OPTIMIZER_FILE, metadata={"optimizer": tensors.optimizer})
    return [MODEL_FILE, OPTIMIZER_FILE]


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
