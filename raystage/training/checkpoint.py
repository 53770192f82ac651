"""Checkpoints of a run folder: written whole or not at all, verified, retired.

A checkpoint is a folder that `AutoModelForCausalLM.from_pretrained` loads (model.safetensors, config.json)
with the optimizer (optimizer.safetensors) and the manifest beside it, written last.
"""

import contextlib
import dataclasses
import hashlib
import shutil
import socket
from collections.abc import Callable, Container
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PretrainedConfig

from raystage.data.durable import whole_folder
from raystage.growth.tensors import OptimizerState, TrainingTensors
from raystage.training.manifest import Manifest, read_manifest

MODEL_FILE, OPTIMIZER_FILE, MANIFEST_FILE = "model.safetensors", "optimizer.safetensors", "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, and why."""


Bring = Callable[[tuple[int, ...]], None]


def bring_nothing(key: tuple[int, ...]) -> None:
    """Of a run folder that is all there is."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A checkpoint on disk."""

    folder: Path
    manifest: Manifest


class CheckpointStore:
    """The checkpoints below one run folder. `bring`: gets one by key from elsewhere, if it can."""

    def __init__(self, run_dir: Path, bring: Bring = bring_nothing) -> None:
        self.folder = run_dir / "checkpoints"
        self._bring = bring

    def save(self, manifest: Manifest, config: PretrainedConfig, tensors: TrainingTensors) -> Path:
        """Writes one checkpoint; the folder appears when all of it is on disk."""
        suffix = f"-{manifest.reason}" if manifest.pinned else f"-{manifest.position}"
        target = self.folder / f"{manifest.counters.step:08d}-{manifest.attempt}{suffix}"
        with whole_folder(target, replace=True) as partial:
            write_checkpoint(partial, manifest, config, tensors)
        return target

    def folders(self) -> list[Path]:
        """Every checkpoint's folder, usable or not."""
        return sorted(self.folder.glob("[0-9]*"))

    def all(self) -> list[Stored]:
        """Every checkpoint with a readable manifest, oldest first."""
        found = []
        for folder in self.folders():
            with contextlib.suppress(ValueError):
                found.append(Stored(folder, read_manifest(folder / MANIFEST_FILE)))
        return sorted(found, key=lambda stored: stored.manifest.key)

    def begin_after(self, resumed: Stored | None) -> None:
        """Clears the way for an attempt: saves that a kill cut short go, and what is damaged no longer counts.

        Damaged checkpoints, those newer than the one resumed from among them, are kept aside under another name.
        """
        for partial in self.folder.glob(".*.partial"):
            shutil.rmtree(partial)
        readable = {stored.folder: stored.manifest.key for stored in self.all()}
        for folder in self.folders():
            counts = resumed is not None and folder in readable and readable[folder] <= resumed.manifest.key
            if not counts:
                folder.rename(folder.with_name(f"damaged-{folder.name}"))

    def has_end(self) -> bool:
        """Whether the run has been trained to its end, and not gone on since."""
        folders = self.folders()
        return bool(folders) and folders[-1].name.endswith("-end")

    def is_pinned(self, step: int, reason: str) -> bool:
        """Whether a checkpoint of this step was pinned for this reason, in whatever attempt."""
        return any(self.folder.glob(f"{step:08d}-*-{reason}"))

    def latest_good(self, among: Callable[[Manifest], bool] = lambda _: True, on_damage: list[str] | None = None) -> Stored | None:
        """The newest checkpoint of those wanted whose files match their checksums. Damaged ones are named in `on_damage`."""
        readable = self.all()
        if on_damage is not None:
            torn = set(self.folders()) - {stored.folder for stored in readable}
            on_damage += [f"checkpoint {folder.name} is passed over: {_unreadable(folder)}" for folder in sorted(torn)]
        for stored in reversed([stored for stored in readable if among(stored.manifest)]):
            damaged = damaged_files(stored)
            if not damaged:
                return stored
            if on_damage is not None:
                on_damage.append(f"checkpoint {stored.folder.name} is damaged ({', '.join(damaged)}); using the one before")
        return None

    def with_key(self, key: tuple[int, ...]) -> Stored:
        """The checkpoint that rank 0 has chosen, brought here first where it is elsewhere. Raises CheckpointError."""
        if not any(stored.manifest.key == key for stored in self.all()):
            self._bring(key)
        found = next((stored for stored in self.all() if stored.manifest.key == key), None)
        if found is None:
            raise CheckpointError(
                f"{self.folder}: the checkpoint of step {key[0]} is not on node {socket.gethostname()}; "
                "share the folder between the nodes or make storage a URI"
            )
        return found

    def retire(self, keep_last: int, keep_best: int, spared: Container[str] = ()) -> None:
        """Deletes all but the latest, the best by validation loss, the pinned and those with a spared name."""
        for stored in unneeded(self.all(), keep_last, keep_best):
            if stored.folder.name not in spared:
                shutil.rmtree(stored.folder)


def unneeded(stored: list[Stored], keep_last: int, keep_best: int) -> list[Stored]:
    """Of checkpoints in order, all but the latest, the best by validation loss, and the pinned."""
    free = [each for each in stored if not each.manifest.pinned]
    measured = [each for each in free if each.manifest.val_loss is not None]
    best = sorted(measured, key=lambda each: (each.manifest.val_loss, each.manifest.key))[:keep_best]
    kept = {each.folder for each in [*free[-keep_last:], *best]}
    return [each for each in free if each.folder not in kept]


def _unreadable(folder: Path) -> str:
    """Why its manifest cannot be read."""
    try:
        read_manifest(folder / MANIFEST_FILE)
    except ValueError as error:
        return str(error)
    return "its manifest can be read by now"


def damaged_files(stored: Stored) -> list[str]:
    """The files of a checkpoint that do not match their checksums."""
    return [name for name, digest in stored.manifest.files.items() if not _matches(stored.folder / name, digest)]


def write_checkpoint(folder: Path, manifest: Manifest, config: PretrainedConfig, tensors: TrainingTensors) -> None:
    """Writes the files of one checkpoint into an empty folder, the manifest last."""
    save_file(_contiguous(tensors.parameters), folder / MODEL_FILE, metadata={"format": "pt"})
    save_file(_contiguous(_flatten(tensors.states)), folder / OPTIMIZER_FILE, metadata={"optimizer": tensors.optimizer})
    config.save_pretrained(folder)
    files = {name: _digest(folder / name) for name in (MODEL_FILE, OPTIMIZER_FILE)}
    (folder / MANIFEST_FILE).write_text(dataclasses.replace(manifest, files=files).to_json())


def load_tensors(folder: Path) -> TrainingTensors:
    """The parameters and optimizer state of a checkpoint, on the CPU. Raises CheckpointError."""
    states: dict[str, OptimizerState] = {}
    for key, tensor in read_safetensors(folder / OPTIMIZER_FILE).items():
        field, _, name = key.partition(":")
        states.setdefault(name, {})[field] = tensor
    return TrainingTensors(read_safetensors(folder / MODEL_FILE), states, _metadata(folder / OPTIMIZER_FILE)["optimizer"])


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one file by name. Raises CheckpointError when it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); is it a safetensors file?") from None


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def _flatten(states: dict[str, OptimizerState]) -> dict[str, Tensor]:
    return {f"{field}:{name}": tensor for name, fields in states.items() for field, tensor in fields.items()}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _matches(path: Path, digest: str) -> bool:
    return path.is_file() and _digest(path) == digest
