"""Sources to a packed corpus on disk, once: found again by its content, whole or not there."""

from pathlib import Path

from raystage.config import ConfigError
from raystage.config.schema import Data
from raystage.data.build import build_corpus
from raystage.data.cache import building, remove_leftovers
from raystage.data.corpus import FACTS, FORMAT_VERSION, Corpus
from raystage.data.encoding import EncodeFiles
from raystage.data.fingerprint import corpus_digest
from raystage.data.progress import Progress, no_progress
from raystage.data.remote_corpus import fetch_corpus, is_stored, node_folder, send_corpus
from raystage.data.tokenizer import TextTokenizer, load_tokenizer
from raystage.storage.address import is_uri
from raystage.storage.patience import Patience
from raystage.storage.remote import RemoteFolder

FOLDER_DIGITS = 16
_PATIENCE_S = 600.0


def prepare(
    data: Data,
    progress: Progress | None = None,
    patience: Patience | None = None,
    encode_files: EncodeFiles | None = None,
    trained_on: str | None = None,
) -> Corpus:
    """The corpus of `data` in `data.cache_dir`, built if it is not there yet (or is damaged), else verified and returned.

    Where that is a URI, the corpus is built or downloaded in `data.node_cache_dir` and lies in both when this returns; `patience`:
    with the store. `progress(label, done, total)` hears of every piece read, in bytes. `encode_files`: what makes tokens of sources of
    several files; None: this process. `trained_on`: digest of the corpus that a run has, taken as it lies there, whatever its sources are
    by now. Raises ConfigError for a source, tokenizer or cache that cannot be read, or gives no training or
    no validation text, or another corpus than `trained_on`; StorageError where the store is away for too long.
    """
    patience = patience or Patience(_PATIENCE_S)
    if trained_on is not None and (corpus := _prepared(data, trained_on[:FOLDER_DIGITS], patience)):
        return corpus
    tokenizer, digest = _tokenizer_and_digest(data)
    if trained_on not in (None, digest):
        raise ConfigError(
            f"{data.cache_dir}/{trained_on[:FOLDER_DIGITS]}: the corpus that the run was trained on is gone, and its sources give another "
            "one; bring either back, or start a new run from its weights (init_from.what=weights)"
        )
    name, is_elsewhere = digest[:FOLDER_DIGITS], is_uri(data.cache_dir)
    folder = _folder(data, name)
    remove_leftovers(folder.parent)
    if is_elsewhere:
        RemoteFolder.open(data.cache_dir, "data.cache_dir", patience).check_writable("data.cache_dir", ".writable")
        fetch_corpus(data, name, patience)
    if not _is_whole(folder):
        with building(folder, _is_whole) as temporary:
            build_corpus(data, tokenizer, digest, temporary, progress or no_progress, encode_files)
    if is_elsewhere:
        send_corpus(data, folder, patience)
    return Corpus.load(folder)


def gives(data: Data, digest: str) -> bool:
    """Whether the sources, as they are, are those of this corpus; not where they cannot be read."""
    try:
        return _tokenizer_and_digest(data)[1] == digest
    except ConfigError:
        return False


def is_prepared(data: Data, patience: Patience) -> bool:
    """Whether the corpus lies on this machine, or at data.cache_dir, already.

    Raises ConfigError for a source or tokenizer that cannot be read, StorageError where the store is away.
    """
    name = _tokenizer_and_digest(data)[1][:FOLDER_DIGITS]
    return (_folder(data, name) / FACTS).is_file() or (is_uri(data.cache_dir) and is_stored(data, name, patience))


def _prepared(data: Data, name: str, patience: Patience) -> Corpus | None:
    """The corpus of this name, checked, without a look at sources."""
    if is_uri(data.cache_dir):
        return fetch_corpus(data, name, patience)
    folder = _folder(data, name)
    return Corpus.load(folder) if _is_whole(folder) else None


def _tokenizer_and_digest(data: Data) -> tuple[TextTokenizer | None, str]:
    tokenizer = None if data.tokenizer.kind == "train" else load_tokenizer(data.tokenizer)
    return tokenizer, corpus_digest(data, tokenizer, FORMAT_VERSION)


def _folder(data: Data, name: str) -> Path:
    return node_folder(data, name) if is_uri(data.cache_dir) else Path(data.cache_dir).expanduser() / name


def _is_whole(folder: Path) -> bool:
    try:
        Corpus.load(folder).verify()
    except ConfigError:
        return False
    return True
