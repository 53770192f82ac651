"""A checkpoint as an ordinary Hugging Face folder: model.safetensors, config.json, tokenizer."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from raystage.config import ConfigError, load
from raystage.config.names import shortened
from raystage.data.corpus import Corpus
from raystage.data.durable import whole_folder
from raystage.data.prepare import prepare
from raystage.storage.faults import StorageError
from raystage.training.checkpoint import BEST, CheckpointStore, Stored, damaged_files, in_order_of_choice, names_of
from raystage.training.tensor_pieces import read_tensors
from raystage.training.weight_files import MODEL_FILE, read_headers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_WRITTEN = {
    MODEL_FILE,
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
}


def export(stored: Stored, tokenizer: "PreTrainedTokenizerFast", target: Path) -> Path:
    """Writes the folder whole or not at all, replacing what an earlier export left there. Raises ConfigError."""
    target = target.expanduser().absolute()
    if target.exists() and not _is_export(target):
        raise ConfigError(f"{target}: exists and holds more than an exported model; move it away, or name a new folder")
    with whole_folder(target, replace=True) as partial:
        for name in (MODEL_FILE, "config.json", "generation_config.json"):
            if (stored.folder / name).is_file():
                shutil.copy2(stored.folder / name, partial / name)
        if not (partial / MODEL_FILE).is_file():
            headers = read_headers(stored.folder)
            save_file(read_tensors(headers, headers), partial / MODEL_FILE, metadata={"format": "pt"})
        tokenizer.save_pretrained(str(partial))
    return target


def _is_export(folder: Path) -> bool:
    """Whether nothing but what `export` writes lies there, so that it may be replaced."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= _WRITTEN


def choose_checkpoint(run_dir: Path, name: str | None) -> Stored:
    """The checkpoint of that name, damaged or not; of good ones the newest for none, that of the lowest validation loss for `best`.

    Raises ConfigError where there is none.
    """
    stored = CheckpointStore(run_dir).all()
    for each in in_order_of_choice(stored, name):
        if name not in (None, BEST) or not damaged_files(each):
            return each
    if name is None:
        raise ConfigError(f"{run_dir}: no usable checkpoint yet; 'raystage runs' lists runs")
    what = "no usable checkpoint has a validation loss" if name == BEST else "no such checkpoint"
    raise ConfigError(f"{shortened(name)}: {what}; {run_dir.name} has {names_of(stored)}")


def corpus_of_run(run: Path, digest: str) -> Corpus:
    """The corpus of this digest, as a manifest of the run has it; prepared anew where it is gone.

    Raises ConfigError, also where its sources give another one by now.
    """
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run}: no run folder (it has no config.yaml); 'raystage runs' lists runs")
    try:
        return prepare(load(run / "config.yaml").data, trained_on=digest)
    except StorageError as error:
        raise ConfigError(str(error)) from None
