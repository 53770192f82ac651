"""The weights of a model's folder: one safetensors file, several and their index, or the shards of a checkpoint."""

import json
from pathlib import Path

from raystage.training.errors import CheckpointError
from raystage.training.tensor_pieces import Header, read_file_headers

MODEL_FILE = "model.safetensors"
MODEL_SHARDS = "model-shards"  # a folder with one file a rank
INDEX_FILE = f"{MODEL_FILE}.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def has_weights(folder: Path) -> bool:
    """Whether weights lie there as safetensors."""
    return (folder / MODEL_FILE).is_file() or (folder / INDEX_FILE).is_file() or bool(shards_in(folder / MODEL_SHARDS))


def read_headers(folder: Path) -> dict[str, Header]:
    """The header of every tensor of the model in `folder`, by stored name. Raises CheckpointError."""
    return read_file_headers(_weight_files(folder))


def shards_in(folder: Path) -> list[Path]:
    """The files that ranks have written into it."""
    return sorted(folder.glob("shard-*.safetensors"))


def _weight_files(folder: Path) -> list[Path]:
    if (folder / MODEL_FILE).is_file():
        return [folder / MODEL_FILE]
    if shards := shards_in(folder / MODEL_SHARDS):
        return shards
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
