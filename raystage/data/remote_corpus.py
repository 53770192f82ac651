"""Prepared corpora at a URI: every machine works on a copy of its own, downloaded once and checked."""

from collections.abc import Mapping
from pathlib import Path

from raystage.config import ConfigError
from raystage.config.schema import Data
from raystage.data.cache import building, remove_leftovers
from raystage.data.corpus import FACTS, Corpus
from raystage.data.progress import Meter, Progress, no_progress
from raystage.storage.one_at_a_time import one_at_a_time
from raystage.storage.patience import Patience
from raystage.storage.remote import RemoteFolder

_TRIES = 2  # a download that does not match its checksums may have been cut short on its way


def node_folder(data: Data, name: str) -> Path:
    """Where this machine keeps its copy of a corpus."""
    return Path(data.node_cache_dir).expanduser().absolute() / name


def fetch_corpus(data: Data, name: str, patience: Patience, progress: Progress = no_progress) -> Corpus | None:
    """This machine's copy, downloaded by one of its processes unless it is there; None where data.cache_dir has no such corpus.

    `progress`: hears of what arrives. Raises ConfigError where what is there does not match its checksums.
    """
    folder = node_folder(data, name)
    with one_at_a_time(folder.with_name(f".{name}.lock")):
        if _is_here(folder):
            return Corpus.load(folder)
        remote = _open(data, name, patience)
        files = remote.names()
        if FACTS not in files:
            return None
        remove_leftovers(folder.parent)
        for tries_left in reversed(range(_TRIES)):
            try:
                _download(remote, files, folder, progress)
                break
            except ConfigError as error:
                if not tries_left:
                    raise ConfigError(f"{remote.uri}: damaged ({error}); delete it there and run raystage prepare") from None
        return Corpus.load(folder)


def _download(remote: RemoteFolder, files: Mapping[str, int], folder: Path, progress: Progress) -> None:
    meter = Meter(progress, f"fetch corpus {folder.name}", sum(files.values()))
    with building(folder, _is_here) as temporary:
        for file in files:
            remote.get(file, temporary / file, meter.part())
        Corpus.load(temporary).verify()


def _is_here(folder: Path) -> bool:
    """It was checked before it got its name, so sizes are enough."""
    try:
        Corpus.load(folder)
    except ConfigError:
        return False
    return True


def _open(data: Data, name: str, patience: Patience) -> RemoteFolder:
    """The folder of one corpus at the URI data.cache_dir. Raises ConfigError where that cannot be opened."""
    return RemoteFolder.open(f"{data.cache_dir.rstrip('/')}/{name}", "data.cache_dir", patience)


def is_stored(data: Data, name: str, patience: Patience) -> bool:
    """Whether data.cache_dir has such a corpus."""
    return FACTS in _open(data, name, patience).names()


def send_corpus(data: Data, folder: Path, patience: Patience) -> None:
    """Uploads a whole corpus, corpus.json last, unless it is there."""
    remote = _open(data, folder.name, patience)
    if FACTS in remote.names():
        return
    files = sorted((path.name for path in folder.iterdir()), key=lambda name: name == FACTS)
    for file in files:
        remote.put(folder / file, file)
