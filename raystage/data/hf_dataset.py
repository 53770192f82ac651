"""Source kind `dataset`: Hugging Face datasets, from the hub or a local folder. The library is loaded on first use."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raystage.config import ConfigError
from raystage.config.schema import Source
from raystage.data.files import OnBytes

BATCH_ROWS = 256


def dataset_documents(source: Source, on_bytes: OnBytes) -> Iterator[str]:
    """The column `text_key`, row by row; rows without a text (null) are passed over.

    Raises ConfigError for a dataset, split or column that does not exist, or cannot be read or reached.
    """
    with _one_line_errors(source):
        dataset = _load(source)
        columns = dataset.column_names
        if columns is None:  # of a stream they are known from its first row on
            columns = list(next(iter(dataset), {source.text_key: None}))
        if source.text_key not in columns:
            raise ConfigError(
                f"{_name(source)}: no column {source.text_key!r}, it has {', '.join(map(repr, columns))}; set text_key of the source"
            )
        for batch in dataset.select_columns([source.text_key]).iter(batch_size=BATCH_ROWS):
            for text in batch[source.text_key]:
                if text is None:
                    continue
                if not isinstance(text, str):
                    raise ConfigError(
                        f"{_name(source)}: column {source.text_key!r} holds {type(text).__name__}, must be text; set text_key"
                    )
                on_bytes(len(text.encode()))
                yield text


def dataset_fingerprint(source: Source) -> str:
    """Changes when the dataset does: the library's own fingerprint; for a stream, the hash of its revision and files."""
    with _one_line_errors(source):
        if source.streaming and not _is_saved(source):
            datasets = _datasets()
            builder = datasets.load_dataset_builder(source.path or source.name, source.subset, revision=source.revision)
            # its hash is that of the whole repository, whichever subset is read; and of patterns alone where a README lists these
            files = datasets.fingerprint.Hasher.hash(builder.config.data_files)
            return f"{builder.hash} {builder.config_id} {files} {source.split}"
        return str(_load(source)._fingerprint)


def _load(source: Source) -> Any:
    datasets = _datasets()
    if not _is_saved(source):
        place = source.path or source.name
        return datasets.load_dataset(place, source.subset, split=source.split, streaming=source.streaming, revision=source.revision)
    saved = datasets.load_from_disk(source.path)
    if not isinstance(saved, datasets.DatasetDict):
        return saved
    if source.split not in saved:
        raise ConfigError(f"{_name(source)}: no split {source.split!r}, it has {', '.join(map(repr, saved))}; set split of the source")
    return saved[source.split]


def _is_saved(source: Source) -> bool:
    """Written by the library's save_to_disk."""
    folder = Path(source.path or "")
    return source.path is not None and any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _datasets() -> Any:
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(f"source kind dataset: the library is missing ({error}); pip install datasets") from None
    return datasets


@contextmanager
def _one_line_errors(source: Source) -> Iterator[None]:
    # the library answers a wrong name, split, file or connection with these three families
    datasets_error = _datasets().exceptions.DatasetsError
    try:
        yield
    except ConfigError:
        raise
    except (OSError, ValueError, datasets_error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(f"{_name(source)}: cannot be loaded ({reason}); check its name, subset, split and your connection") from None


def _name(source: Source) -> str:
    return f"dataset {source.path or source.name}"
