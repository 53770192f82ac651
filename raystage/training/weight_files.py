"""The weights of a model's folder: one safetensors file, or several and their index. No pickle is ever read."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from raystage.training.checkpoint import MODEL_FILE, CheckpointError

INDEX_FILE = f"{MODEL_FILE}.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclasses.dataclass(frozen=True)
class Header:
    """What a safetensors file says of a tensor before its values: `dtype` in its own words, like BF16."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def has_weights(folder: Path) -> bool:
    """Whether weights lie there as safetensors."""
    return (folder / MODEL_FILE).is_file() or (folder / INDEX_FILE).is_file()


def read_headers(folder: Path) -> dict[str, Header]:
    """The header of every tensor of the model in `folder`, by stored name. Raises CheckpointError."""
    headers: dict[str, Header] = {}
    for path in _weight_files(folder):
        found = file_headers(path)
        if twice := sorted(set(headers) & set(found)):
            raise CheckpointError(f"{path}: holds {twice[0]}, and so does {headers[twice[0]].file.name}; one of the two is stale")
        headers |= found
    return headers


def file_headers(path: Path) -> dict[str, Header]:
    """The headers of one file. Raises CheckpointError when it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return {name: Header(path, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); is it a safetensors file?") from None


def read_weights(headers: dict[str, Header], names: Iterable[str]) -> dict[str, Tensor]:
    """These tensors, each file opened once. Raises CheckpointError."""
    by_file: dict[Path, list[str]] = {}
    for name in names:
        by_file.setdefault(headers[name].file, []).append(name)
    tensors: dict[str, Tensor] = {}
    for path, members in by_file.items():
        try:
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in members}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); is it a safetensors file?") from None
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    if (folder / MODEL_FILE).is_file():
        return [folder / MODEL_FILE]
    index = folder / INDEX_FILE
    if not index.is_file():
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{folder}: its weights are a pickle ({pickles[0]}), which could run code and is never loaded; "
                "save the model again as safetensors (save_pretrained of transformers does)"
            )
        raise CheckpointError(f"{folder}: no {MODEL_FILE} and no {INDEX_FILE}; give a run folder, a checkpoint or a Hugging Face folder")
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: cannot be read ({type(error).__name__}: {error}); copy the model again") from None
    files = [folder / Path(name).name for name in names]
    for path in files:
        if not path.is_file():
            raise CheckpointError(f"{path}: missing, though {INDEX_FILE} names it; copy the model again, whole")
    return files
