"""Where a model lies that is to be evaluated or to write: in a run, in a checkpoint of one, or in a Hugging Face folder."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from raystage.config import Config, ConfigError, load
from raystage.data.corpus import TOKENIZER, Corpus
from raystage.data.progress import Progress, no_progress
from raystage.devices.device import Device, Precision, pick_device
from raystage.evaluation.language_model import LanguageModel, load_tokenizer, open_language_model, place_language_model
from raystage.models.family import build_with, get_family
from raystage.runtime.export import choose_checkpoint, corpus_of_run
from raystage.runtime.remote_run import CONFIG_FILE
from raystage.runtime.run_folder import TOKENIZER_FOLDER
from raystage.runtime.view import view_checkpoint, view_model
from raystage.training.checkpoint import MANIFEST_FILE, Stored, damaged_files
from raystage.training.manifest import read_manifest
from raystage.training.tensor_pieces import read_tensors
from raystage.training.weight_files import MODEL_SHARDS, has_weights, read_headers


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """`folder`: with config.json and weights; `run`: the run folder it comes from; `stored`: the checkpoint that it is, of a run or not."""

    folder: Path
    run: Path | None = None
    stored: Stored | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def step(self) -> int | None:
        return self.stored.manifest.counters.step if self.stored else None

    def config(self) -> Config:
        """Of the run. Raises ConfigError where there is none."""
        if self.run is None:
            raise ConfigError(f"{self.folder}: belongs to no run folder, and only a run has held-out rows; give --text or --lambada")
        return load(self.run / CONFIG_FILE)

    def tokenizer(self) -> Any:
        """The folder's own, else that of the run. Raises ConfigError."""
        if self.run is None or (self.folder / TOKENIZER).is_file():
            return load_tokenizer(self.folder)
        kept = self.run / TOKENIZER_FOLDER
        return load_tokenizer(kept) if (kept / TOKENIZER).is_file() else self.corpus().tokenizer()

    def corpus(self) -> Corpus:
        """What the run was trained on. Raises ConfigError where that is gone, and its sources have changed."""
        assert self.run is not None, "its configuration has been read"
        assert self.stored is not None, "only checkpoints belong to a run"
        return corpus_of_run(self.run, self.stored.manifest.corpus_digest)

    def open(self, device: Device, precision: Precision) -> LanguageModel:
        """Raises ConfigError for what cannot be loaded whole."""
        tokenizer = self.tokenizer()
        if not (self.folder / MODEL_SHARDS).is_dir():
            return open_language_model(self.folder, device, precision, tokenizer)
        from transformers import AutoConfig

        try:
            headers = read_headers(self.folder)
            config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)  # nosec B615  # a folder
            module = build_with(config, get_family(config.model_type), read_tensors(headers, headers))
        except (ValueError, OSError) as error:
            raise ConfigError(f"{self.folder}: its model cannot be loaded ({error})") from None
        return place_language_model(module, tokenizer, device, precision)


def find_model(source: str, checkpoint: str | None = None, progress: Progress = no_progress) -> ModelSource:
    """The checkpoint that `choose_checkpoint` takes of the run at `source`, a folder or a URI; else the model that lies there.

    Raises ConfigError where there is none, or its files do not match their checksums.
    """
    path = view_checkpoint(source, checkpoint, progress)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder; give a run, a raystage checkpoint or a Hugging Face folder")
    if not has_weights(path) and (path / "checkpoints").is_dir():
        return _whole(choose_checkpoint(path, checkpoint), path)
    if checkpoint is not None:
        raise ConfigError(f"--checkpoint {checkpoint}: {path} is no run folder, and has no checkpoints to choose from")
    try:
        read_headers(path)
        stored = Stored(path, read_manifest(path / MANIFEST_FILE)) if (path / MANIFEST_FILE).is_file() else None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if stored is None:
        return ModelSource(path)
    run = path.absolute().parent.parent
    return _whole(stored, run if (run / CONFIG_FILE).is_file() else None)


def find_finished(source: str, checkpoint: str | None = None, progress: Progress = no_progress) -> ModelSource:
    """The same, but of a run without `checkpoint` its finished model, where it has one."""
    finished = view_model(source, progress) if checkpoint is None else Path(source)
    return ModelSource(finished) if finished != Path(source) else find_model(source, checkpoint, progress)


def pick(device: Literal["auto", "cpu", "cuda", "xla"]) -> Device:
    """The device that an option --device names. Raises ConfigError."""
    try:
        return pick_device(device)
    except ValueError as error:
        raise ConfigError(str(error).replace("runtime.device=", "--device ")) from None


def _whole(stored: Stored, run: Path | None) -> ModelSource:
    if damaged := damaged_files(stored):
        raise ConfigError(f"{stored.folder}: damaged ({', '.join(damaged)}: another checksum); take another checkpoint of the run")
    return ModelSource(stored.folder, run, stored)
