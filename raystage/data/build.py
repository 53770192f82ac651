"""One corpus into an empty folder: split, tokenizer, token streams, facts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raystage.config import ConfigError
from raystage.config.schema import Data, Source
from raystage.data.corpus import TOKENIZER, TRAIN, VALIDATION, write_facts
from raystage.data.documents import documents, files_of, limited
from raystage.data.encoding import EncodedDocument, EncodeFiles, encode_documents
from raystage.data.files import OnBytes
from raystage.data.mixture import mix
from raystage.data.progress import Meter, Progress, total_bytes
from raystage.data.split import HoldOut, KeepApart, Side, SideOf
from raystage.data.stream_file import StreamWriter
from raystage.data.tokenizer import TextTokenizer, train_tokenizer
from raystage.devices.cores import n_cores

LARGEST_FILE_BYTES = 1_000_000_000  # as it lies, of a source that other machines tokenize
Encode = Callable[[Source, SideOf, OnBytes], Iterator[EncodedDocument]]
Writers = Mapping[Side, StreamWriter]


@dataclass(frozen=True)
class _Part:
    """Sources that are read together; the weights share out the tokens of `mixed_side`."""

    sources: Sequence[Source]
    side_of: SideOf
    mixed_side: Side


def build_corpus(
    data: Data, tokenizer: TextTokenizer | None, digest: str, folder: Path, progress: Progress, encode_files: EncodeFiles | None = None
) -> None:
    """Writes the corpus of `data`; tokenizer None: one is trained. Raises ConfigError for sources that give no corpus.

    `encode_files` makes tokens of sources of several files; the rows are the same without it.
    """
    side_of = _split(data)
    tokenizer = tokenizer or _train(data, side_of, progress)
    tokenizer.save(folder / TOKENIZER)
    n_threads = data.processes or n_cores()
    with (
        ThreadPoolExecutor(n_threads) as threads,
        StreamWriter(folder / TRAIN, tokenizer.vocab_size, tokenizer.eot_id) as train,
        StreamWriter(folder / VALIDATION, tokenizer.vocab_size, tokenizer.eot_id) as validation,
    ):
        here = partial(encode_documents, tokenizer=tokenizer, threads=threads, n_ahead=2 * n_threads)
        encode: Encode = partial(_encoded, tokenizer=tokenizer, here=here, elsewhere=encode_files)
        writers = {Side.TRAIN: train, Side.VALIDATION: validation}
        if data.validation_sources:
            meter = Meter(progress, "tokenize validation text", total_bytes(data.validation_sources))
            _write(_Part(data.validation_sources, _always_validation, Side.VALIDATION), encode, writers, meter)
        meter = Meter(progress, "tokenize", total_bytes(data.sources))
        source_tokens, n_dropped = _write(_Part(data.sources, side_of, Side.TRAIN), encode, writers, meter)
    _check(data, train, validation)
    facts = {
        "digest": digest,
        "vocab_size": tokenizer.vocab_size,
        "eot_id": tokenizer.eot_id,
        "eot_token": tokenizer.eot_token,
        "n_dropped_documents": n_dropped,
        "source_tokens": source_tokens,
    }
    write_facts(folder, facts, train.facts(), validation.facts())


def _split(data: Data) -> SideOf:
    if not data.validation_sources:
        return HoldOut(data.validation_fraction).side
    return KeepApart.of(text for source in data.validation_sources for text in documents(source)).side


def _always_validation(text: str) -> Side:
    return Side.VALIDATION


def _train(data: Data, side_of: SideOf, progress: Progress) -> TextTokenizer:
    meter = Meter(progress, "train the tokenizer", None)
    tokenizer = train_tokenizer(_tokenizer_texts(data, side_of, meter), data.tokenizer.vocab_size)
    meter.finish()
    return tokenizer


def _tokenizer_texts(data: Data, side_of: SideOf, meter: Meter) -> Iterator[str]:
    """The first training documents of each source, up to its weight's share of `train_bytes` (the last one whole)."""
    total_weight = sum(source.weight for source in data.sources)
    for source in data.sources:
        left_bytes = data.tokenizer.train_bytes * source.weight / total_weight
        for text in documents(source):
            if side_of(text) is Side.TRAIN:
                yield text
                n_bytes = len(text.encode())
                meter.advance(n_bytes)
                left_bytes -= n_bytes
                if left_bytes <= 0:
                    break


def _write(part: _Part, encode: Encode, writers: Writers, meter: Meter) -> tuple[list[int], int]:
    """Writes the mixture; returns the tokens of each source on the mixed side and the number of dropped documents."""

    def mixed_tokens(document: EncodedDocument) -> int:
        return len(document.tokens) + 1 if document.side is part.mixed_side else 0

    streams = [encode(source, part.side_of, meter.advance) for source in part.sources]
    source_tokens, n_dropped = [0] * len(streams), 0
    for i, document in mix(streams, [source.weight for source in part.sources], mixed_tokens):
        source_tokens[i] += mixed_tokens(document)
        if document.side is Side.DROPPED:
            n_dropped += 1
        else:
            writers[document.side].append(document)
    meter.finish()
    return source_tokens, n_dropped


def _encoded(
    source: Source,
    side_of: SideOf,
    on_bytes: OnBytes,
    tokenizer: TextTokenizer,
    here: Callable[[Iterator[str], SideOf], Iterator[EncodedDocument]],
    elsewhere: EncodeFiles | None,
) -> Iterator[EncodedDocument]:
    files = files_of(source) if elsewhere else []
    # the task of a file holds its tokens whole
    if elsewhere and len(files) > 1 and max(path.stat().st_size for path in files) <= LARGEST_FILE_BYTES:
        return limited(elsewhere(source, files, side_of, tokenizer, on_bytes), source)
    return here(documents(source, on_bytes), side_of)


def _check(data: Data, train: StreamWriter, validation: StreamWriter) -> None:
    n_train, n_validation = train.facts().n_documents, validation.facts().n_documents
    fraction = f"data.validation_fraction={data.validation_fraction}"
    if not n_train and data.validation_sources:
        raise ConfigError("data.sources: no training document is left, validation_sources holds them all; give other text")
    if not n_train:
        raise ConfigError(f"{fraction}: holds out all {n_validation} documents; lower it or give more documents")
    if not n_validation:
        raise ConfigError(f"{fraction}: holds out none of {n_train} documents; raise it or give data.validation_sources")
