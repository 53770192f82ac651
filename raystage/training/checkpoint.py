"""Checkpoints of a run folder by their manifests: found, verified, retired. checkpoint_writing.py writes them."""

import contextlib
import dataclasses
import math
import shutil
import socket
from collections.abc import Callable, Container, Sequence
from pathlib import Path

from raystage.data.durable import digest
from raystage.training.errors import CheckpointError
from raystage.training.manifest import Manifest, read_manifest

MANIFEST_FILE = "manifest.json"
BEST = "best"  # in a checkpoint's place, that of the lowest validation loss

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

    def folders(self) -> list[Path]:
        """Every checkpoint's folder, usable or not, by step and attempt."""
        return sorted(self.folder.glob("[0-9]*"), key=_step_and_attempt)

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


def _step_and_attempt(folder: Path) -> tuple[str, str, str]:
    step, attempt, *_ = [*folder.name.split("-"), ""]
    return step, attempt.zfill(9), folder.name  # attempt 10 comes after 9


def unneeded(stored: list[Stored], keep_last: int, keep_best: int) -> list[Stored]:
    """Of checkpoints in order, all but the latest, the best by validation loss, and the pinned."""
    free = [each for each in stored if not each.manifest.pinned]
    kept = {each.folder for each in [*free[-keep_last:], *by_val_loss(free)[:keep_best]]}
    return [each for each in free if each.folder not in kept]


def by_val_loss(stored: list[Stored]) -> list[Stored]:
    """Those that have a validation loss, the best first."""
    measured = [each for each in stored if each.manifest.val_loss is not None and math.isfinite(each.manifest.val_loss)]
    return sorted(measured, key=lambda each: (each.manifest.val_loss, each.manifest.key))


def _unreadable(folder: Path) -> str:
    """Why its manifest cannot be read."""
    try:
        read_manifest(folder / MANIFEST_FILE)
    except ValueError as error:
        return str(error)
    return "its manifest can be read by now"


def names_of(stored: Sequence[Stored]) -> str:
    """Those that there are to choose from, in words."""
    return ", ".join(each.folder.name for each in stored) or "none"


def in_order_of_choice(stored: list[Stored], name: str | None) -> list[Stored]:
    """What a user's word for a checkpoint means, to be tried in turn: none, the newest first; `best`, by validation loss; else its name."""
    if name is None:
        return stored[::-1]
    return by_val_loss(stored) if name == BEST else [each for each in stored if each.folder.name == name]


def damaged_files(stored: Stored) -> list[str]:
    """The files of a checkpoint that do not match their checksums."""
    return [name for name, expected in stored.manifest.files.items() if not _matches(stored.folder / name, expected)]


def _matches(path: Path, expected: str) -> bool:
    return path.is_file() and digest(path) == expected
