"""The checkpoints of a run that lie elsewhere: sent, listed, brought here and retired. One without a manifest does not exist."""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from raystage.data.durable import whole_folder
from raystage.data.progress import Meter, Progress, no_progress
from raystage.storage.one_at_a_time import one_at_a_time
from raystage.storage.remote import RemoteFolder
from raystage.training.checkpoint import MANIFEST_FILE, CheckpointStore, Stored, damaged_files, unneeded
from raystage.training.errors import CheckpointError
from raystage.training.manifest import read_manifest

_TRIES = 2  # of a download whose checksums do not match: the first may have been cut short on its way
_SET_ASIDE = "damaged-manifest.json"
_MANIFESTS, _LOCK = ".elsewhere", ".bringing"


class RemoteCheckpoints:
    """`remote`: the folder of checkpoints there, `run_dir`: the run folder here. All calls raise StorageError past the patience.

    `progress`: hears of every checkpoint that is brought here, in bytes.
    """

    def __init__(self, remote: RemoteFolder, run_dir: Path, progress: Progress = no_progress) -> None:
        self._remote, self._folder, self._progress = remote, CheckpointStore(run_dir).folder, progress

    def all(self, passed_over: list[str] | None = None) -> list[Stored]:
        """The whole ones, oldest first, under the path that they have or would have here. Others are named in `passed_over`."""
        found, reasons = [], []
        for name, files in sorted(self._listing().items()):  # as in a folder here, the end comes after what else was saved at its step
            if MANIFEST_FILE not in files:
                reasons.append(f"checkpoint {name} in {self._remote.uri} is passed over: its upload was cut short")
                continue
            try:
                found.append(Stored(self._folder / name, read_manifest(self._manifest_of(name, files[MANIFEST_FILE]))))
            except FileNotFoundError:
                continue  # retired since it was listed
            except ValueError as error:
                reasons.append(f"checkpoint {name} in {self._remote.uri} is passed over: {error}")
        if passed_over is not None:
            passed_over += reasons
        return sorted(found, key=lambda stored: stored.manifest.key)

    def whole_names(self) -> set[str]:
        """Names of those with a manifest."""
        return {name for name, files in self._listing().items() if MANIFEST_FILE in files}

    def ends_with_end(self) -> bool:
        """Whether the run has been trained to its end, and not gone on since."""
        return max(self.whole_names(), default="").endswith("-end")

    def send(self, folder: Path) -> None:
        """Uploads one from here, the manifest last. Raises FileNotFoundError where it is retired meanwhile."""
        name = folder.name
        self._remote.delete([f"{name}/{MANIFEST_FILE}"])  # an older one of this name is no more, from its first file on
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        for file in sorted(files, key=lambda file: file == MANIFEST_FILE):
            self._remote.put(folder / file, f"{name}/{file}")

    def bring(self, stored: Stored) -> None:
        """Downloads one unless it is here, whole, by one process of this machine. Raises CheckpointError where it is damaged there."""
        with one_at_a_time(self._folder / _LOCK):
            if (stored.folder / MANIFEST_FILE).is_file() and not damaged_files(stored):
                return
            with whole_folder(stored.folder, replace=True) as partial:
                try:
                    self._download(stored, partial)
                except FileNotFoundError:
                    gone = f"checkpoint {stored.folder.name} in {self._remote.uri} was retired meanwhile; using the one before"
                    raise CheckpointError(gone) from None

    def mirror(self) -> list[Stored]:
        """The same as `all`, read anew; those here that it does not know are removed, since their run may be another one of that name."""
        with one_at_a_time(self._folder / _LOCK):
            shutil.rmtree(self._folder / _MANIFESTS, ignore_errors=True)
            found = self.all()
            for folder in {*self._folder.glob("[0-9]*")} - {stored.folder for stored in found}:
                shutil.rmtree(folder)
        return found

    def set_aside(self, names: Iterable[str]) -> None:
        """These no longer count; their files stay until they are deleted by hand."""
        for name in names:
            manifest = self._remote.read(f"{name}/{MANIFEST_FILE}")
            if manifest is not None:
                self._remote.write(f"{name}/{_SET_ASIDE}", manifest)
                self._remote.delete([f"{name}/{MANIFEST_FILE}"])

    def retire(self, keep_last: int, keep_best: int) -> None:
        """Deletes all but the latest, the best and the pinned: the rule of the local ones, on what is whole there."""
        doomed = {stored.folder.name for stored in unneeded(self.all(), keep_last, keep_best)}
        if doomed:
            self._delete(doomed)

    def clear_cut_short(self) -> None:
        """Deletes what uploads that were cut short have left."""
        self._delete({name for name, files in self._listing().items() if MANIFEST_FILE not in files and _SET_ASIDE not in files})

    def _delete(self, names: set[str]) -> None:
        for name, files in self._listing().items():
            if name in names:
                self._remote.delete(f"{name}/{file}" for file in sorted(files, key=lambda file: file != MANIFEST_FILE))

    def _listing(self) -> dict[str, dict[str, int]]:
        """Files and their sizes by checkpoint."""
        found: dict[str, dict[str, int]] = {}
        for path, size_bytes in sorted(self._remote.names().items()):
            name, _, file = path.partition("/")
            if name[:1].isdigit() and file:
                found.setdefault(name, {})[file] = size_bytes
        return found

    def _manifest_of(self, name: str, size_bytes: int) -> Path:
        """Its manifest, kept here, since every listing asks for it."""
        kept = self._folder / _MANIFESTS / f"{name}.json"
        if not kept.is_file() or kept.stat().st_size != size_bytes:
            self._remote.get(f"{name}/{MANIFEST_FILE}", kept)
        return kept

    def _download(self, stored: Stored, partial: Path) -> None:
        name = stored.folder.name
        files = self._listing().get(name, {})
        meter = Meter(self._progress, f"fetch checkpoint {name}", sum(files.values()))
        for file in files:
            self._take_or_get(stored, file, partial, meter.part())
        brought = Stored(partial, stored.manifest)
        for _ in range(_TRIES - 1):
            for file in damaged_files(brought):
                if file in files:
                    self._remote.get(f"{name}/{file}", partial / file)
        damaged = damaged_files(brought)
        if damaged:
            raise CheckpointError(f"checkpoint {name} in {self._remote.uri} is damaged ({', '.join(damaged)}); using the one before")

    def _take_or_get(self, stored: Stored, file: str, partial: Path, arrived: Callable[[int], None]) -> None:
        """What is here already and matches its checksum is not downloaded again."""
        here, digest = stored.folder / file, stored.manifest.files.get(file)
        (partial / file).parent.mkdir(parents=True, exist_ok=True)
        if digest is not None and file not in damaged_files(stored) and here.is_file():
            os.link(here, partial / file)
            arrived(here.stat().st_size)
        else:
            self._remote.get(f"{stored.folder.name}/{file}", partial / file, arrived)


def bring_newest(store: CheckpointStore, elsewhere: RemoteCheckpoints, say: Callable[[str], None]) -> None:
    """After it the newest good checkpoint of here and elsewhere is here. Damaged and partial ones are said.

    Raises CheckpointError where there are some elsewhere and none of them, nor any here, can be used.
    """
    reasons: list[str] = []
    there = elsewhere.all(reasons)
    for line in reasons:
        say(line)
    here = store.latest_good()
    for stored in reversed(there):
        if here is not None and here.manifest.key >= stored.manifest.key:
            return
        try:
            elsewhere.bring(stored)
            return
        except CheckpointError as error:
            say(str(error))
    if here is None and there:
        raise CheckpointError(f"{store.folder}: none of the run's checkpoints is usable, here or in its storage; choose another name")


def leave_only(run_dir: Path, names: set[str]) -> None:
    """Renames the checkpoints here of other names: a run that has gone on elsewhere without them does not know them."""
    for folder in CheckpointStore(run_dir).folders():
        if folder.name not in names:
            aside = folder.with_name(f"stale-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
