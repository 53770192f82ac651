"""The prepared rows on the node of every rank."""

import socket
from pathlib import Path

from raystage.config import ConfigError
from raystage.config.schema import Data
from raystage.data.corpus import Corpus
from raystage.data.progress import Progress, no_progress
from raystage.data.remote_corpus import fetch_corpus
from raystage.devices.ranks import Ranks
from raystage.storage.address import is_uri
from raystage.storage.patience import Patience


def corpus_on_every_node(data: Data, folder: Path, ranks: Ranks, patience: Patience, progress: Progress = no_progress) -> Corpus:
    """The corpus that the driver prepared in `folder`, downloaded to this node once where data.cache_dir is a URI.

    `progress`: hears of what arrives. Raises ConfigError on every rank alike where one of them has none.
    """
    corpus: Corpus | None = None
    error: Exception | None = None
    try:
        corpus = _on_this_node(data, folder, patience, progress)
    except (ConfigError, OSError) as late:  # of the store, or of the disk here
        error = late
    (all_have_it,) = ranks.smallest([int(error is None)])
    if error is not None:
        raise ConfigError(str(error)) from None
    if corpus is None or not all_have_it:
        raise ConfigError(
            f"the prepared rows in {folder} are not on the node of every worker (they are on {socket.gethostname()}): "
            "share the folder or make data.cache_dir a URI"
        )
    return corpus


def _on_this_node(data: Data, folder: Path, patience: Patience, progress: Progress) -> Corpus:
    if not is_uri(data.cache_dir):
        if not folder.is_dir():
            raise ConfigError(
                f"the prepared rows in {folder} are not on node {socket.gethostname()}: share the folder or make data.cache_dir a URI"
            )
        return Corpus.load(folder)
    found = fetch_corpus(data, folder.name, patience, progress)
    if found is None:
        raise ConfigError(f"{data.cache_dir}/{folder.name}: no prepared corpus there any more; run raystage prepare")
    return found
