"""The folder of a run: who may write to it, which attempt is the latest, and under which configuration."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from raystage.config import Config, ConfigError, dump, flat, to_tree
from raystage.storage.address import is_uri, local_folder_of

# keys that may change between the attempts of one run: they move no loss of a step
MAY_CHANGE = (
    *("runtime.", "tracking.", "sample.", "evaluation.", "checkpoint.", "storage"),
    *("training.duration", "training.stop_at", "training.strategy"),
    *("data.cache_dir", "data.node_cache_dir", "data.processes"),
)
TOKENIZER_FOLDER = "tokenizer"
Change = dict[str, Any]  # key, before, after
_ATTEMPT, _LOCK, _CONFIG, _CHANGES = "attempt", "lock", "config.yaml", "config_changes.jsonl"


class RunFolder:
    """`storage/name`; where storage is a URI, the folder on this machine that stands for it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def of(config: Config) -> "RunFolder":
        return RunFolder(folder_of_runs(config.storage, config.storage_cache) / config.name)

    @property
    def report(self) -> Path:
        return self.path / "report"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process; the lock ends with the process, however it ends. Raises ConfigError."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / _LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"name={self.path.name}: another process is training this run; wait for it or choose another name"
                ) from None
            yield

    def changes(self, config: Config) -> list[Change]:
        """What this configuration changes against that of the last attempt.

        Raises ConfigError with both values for a key that may not change under an old name.
        """
        path = self.path / _CONFIG
        if not path.is_file():
            return []
        before, after, default = flat(yaml.safe_load(path.read_text())), flat(to_tree(config)), flat(to_tree(Config()))
        # a key that was not there yet when the run began had what is its default
        before |= {key: default[key] for key in after if key not in before and key in default}
        keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        changes: list[Change] = [{"key": key, "before": before.get(key), "after": after.get(key)} for key in keys]
        for change in changes:
            if not change["key"].startswith(MAY_CHANGE):
                raise ConfigError(
                    f"{change['key']}={change['after']}: run {config.name!r} began with {change['before']}; "
                    "keep that value, or choose another name for a new run"
                )
        return changes

    def accept(self, config: Config) -> list[str]:
        """Takes the configuration of this attempt; returns its changes, a line each. Raises ConfigError as `changes` does."""
        changes = self.changes(config)
        if changes:
            with (self.path / _CHANGES).open("a") as file:
                file.writelines(json.dumps({"after_attempt": self.attempt(), **change}) + "\n" for change in changes)
        write_whole(self.path / _CONFIG, dump(config))
        return [f"{change['key']}: {change['before']} -> {change['after']}" for change in changes]

    def attempt(self) -> int:
        """The latest attempt, 0 before the first."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.path / _ATTEMPT).read_text())
        return 0

    def next_attempt(self, at_least: int = 1) -> int:
        """Begins a new attempt, which fences off all earlier ones."""
        attempt = max(self.attempt() + 1, at_least)
        self.path.mkdir(parents=True, exist_ok=True)  # rank 0 may be on a machine where nobody has been yet
        write_whole(self.path / _ATTEMPT, str(attempt))
        return attempt


def folder_of_runs(storage: str, cache: str) -> Path:
    """The folder on this machine of the runs in `storage`, a path or a URI."""
    return local_folder_of(storage, cache) if is_uri(storage) else Path(storage).expanduser().absolute()


def write_whole(path: Path, text: str) -> None:
    """The file has the old text or the new, never half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
