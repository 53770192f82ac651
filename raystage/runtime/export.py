"""A checkpoint as an ordinary Hugging Face folder: model.safetensors, config.json, tokenizer."""

import shutil
from pathlib import Path

from raystage.config import ConfigError
from raystage.data.corpus import Corpus
from raystage.training.checkpoint import MODEL_FILE, CheckpointStore, Stored


def export(stored: Stored, corpus: Corpus, target: Path) -> Path:
    """Writes the folder whole or not at all, replacing what an earlier export left there. Raises ConfigError."""
    if target.exists() and not (target / "config.json").is_file():
        raise ConfigError(f"{target}: exists and is no exported model; name a new folder")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in (MODEL_FILE, "config.json", "generation_config.json"):
        if (stored.folder / name).is_file():
            shutil.copy2(stored.folder / name, partial / name)
    corpus.tokenizer().save_pretrained(str(partial))
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


def choose_checkpoint(run_dir: Path, name: str | None) -> Stored:
    """The checkpoint of that name, or the newest good one. Raises ConfigError where there is none."""
    store = CheckpointStore(run_dir)
    if name is None:
        stored = store.latest_good()
        if stored is None:
            raise ConfigError(f"{run_dir}: no usable checkpoint yet; 'raystage runs' lists runs")
        return stored
    found = {stored.folder.name: stored for stored in store.all()}
    if name not in found:
        raise ConfigError(f"{name}: no such checkpoint; {run_dir.name} has {', '.join(found) or 'none'}")
    return found[name]
