"""Sources to a packed corpus on disk, once: found again by its content, whole or not there."""

from pathlib import Path

from raystage.config import ConfigError
from raystage.config.schema import Data
from raystage.data.build import build_corpus
from raystage.data.cache import building, remove_leftovers
from raystage.data.corpus import FORMAT_VERSION, Corpus
from raystage.data.fingerprint import corpus_digest
from raystage.data.progress import Progress, no_progress
from raystage.data.tokenizer import load_tokenizer

FOLDER_DIGITS = 16


def prepare(data: Data, progress: Progress | None = None) -> Corpus:
    """The corpus of `data` in `data.cache_dir`, built if it is not there yet (or is damaged), else verified and returned.

    `progress(label, done, total)` hears of every piece read, in bytes. Raises ConfigError for a source, tokenizer or cache
    that cannot be read, or gives no training or no validation text.
    """
    tokenizer = None if data.tokenizer.kind == "train" else load_tokenizer(data.tokenizer)
    digest = corpus_digest(data, tokenizer, FORMAT_VERSION)
    cache = Path(data.cache_dir).expanduser()
    folder = cache / digest[:FOLDER_DIGITS]
    remove_leftovers(cache)
    if not _is_whole(folder):
        with building(folder, _is_whole) as temporary:
            build_corpus(data, tokenizer, digest, temporary, progress or no_progress)
    return Corpus.load(folder)


def _is_whole(folder: Path) -> bool:
    try:
        Corpus.load(folder).verify()
    except ConfigError:
        return False
    return True
