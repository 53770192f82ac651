"""What `raystage evaluate` measures of one model, and the record of it that can be traced. Ray tasks may call it with a folder's name."""

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

import raystage
from raystage.config import ConfigError
from raystage.data.batch import spread_rows
from raystage.data.files import file_sha256, open_text
from raystage.data.jsonl_files import jsonl_documents
from raystage.data.progress import Progress, no_progress
from raystage.data.rows import Rows
from raystage.devices.device import Precision
from raystage.evaluation.by_position import LossByPosition, loss_by_position
from raystage.evaluation.lambada import lambada
from raystage.evaluation.language_model import LanguageModel
from raystage.evaluation.perplexity import exp, perplexity, text_tokens
from raystage.evaluation.scoring import OnTokens
from raystage.runtime.model_source import ModelSource, find_model, pick
from raystage.tracking.records import without_non_finite

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Request:
    """`texts`: files for perplexity; `positions`: and for loss by position; `words`: denominator of their word-level perplexity, None:
    counted; `lambada`: a file; `validation`: the run's held-out rows. None of them: those rows.

    `context_tokens`: None: the model's; `stride_tokens`: None: the context; `batch_tokens`: of one forward pass.
    """

    texts: tuple[Path, ...] = ()
    lambada: Path | None = None
    validation: bool = False
    positions: bool = False
    words: int | None = None
    context_tokens: int | None = None
    stride_tokens: int | None = None
    batch_tokens: int = 4096
    device: Literal["auto", "cpu", "cuda", "xla"] = "auto"
    precision: Precision = "float32"


def evaluate(source: str, checkpoint: str | None, request: Request, progress: Progress = no_progress) -> Tree:
    """The results as a tree of JSON values: `model`, `settings`, `versions`, and in `results` one a measurement.

    `source`: a run folder, a checkpoint, a Hugging Face folder, or the URI of a run. `progress` hears of tokens scored. Raises
    ConfigError for what is missing, damaged or does not fit together, before anything is computed where that shows.
    """
    return evaluate_model(find_model(source, checkpoint, progress), request, progress)


def evaluate_model(found: ModelSource, request: Request, progress: Progress = no_progress) -> Tree:
    """The same for a model that has been found."""
    for path in (*request.texts, *([request.lambada] if request.lambada else [])):
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; --text takes a text file, --lambada one of JSON lines")
    if request.words is not None and len(request.texts) != 1:
        raise ConfigError(f"--words {request.words}: is of one text, and {len(request.texts)} are given")
    if request.positions and not request.texts:
        raise ConfigError("--positions: is for texts, and none is given; of held-out rows the loss by position is always measured")
    if request.validation or not (request.texts or request.lambada):
        found.config()  # raises where there is no run
    model, context, stride = _open(found, request)
    measure = _Measurer(found, request, model, context, stride, progress)
    results = [result for path in request.texts for result in measure.text(path)]
    if request.lambada:
        results.append(measure.lambada(request.lambada))
    if request.validation or not results:
        results.append(measure.validation())
    tree: Tree = without_non_finite(
        {
            "model": _model_facts(found, model),
            "settings": {
                "context_tokens": context,
                "stride_tokens": stride,
                "batch_tokens": request.batch_tokens,
                "precision": request.precision,
                "device": model.device.name,
            },
            "versions": {"raystage": raystage.__version__, "torch": str(torch.__version__), "transformers": transformers.__version__},
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "results": results,
        }
    )
    return tree


def _open(found: ModelSource, request: Request) -> tuple[LanguageModel, int, int]:
    """The model, and the context and stride that are asked of it."""
    model = found.open(pick(request.device), request.precision)
    longest, context = model.context_tokens, request.context_tokens or model.context_tokens
    if context is None:
        raise ConfigError(f"{found.folder}: its config.json has no max_position_embeddings; give --context")
    if longest is not None and context > longest:
        raise ConfigError(f"--context {context}: the model takes {longest} tokens at the most")
    stride = context if request.stride_tokens is None else request.stride_tokens
    if not 1 <= stride <= context:
        raise ConfigError(f"--stride {stride}: must be 1 to {context}, the context; a larger one would pass over tokens")
    return model, context, stride


@dataclasses.dataclass(frozen=True)
class _Measurer:
    found: ModelSource
    request: Request
    model: LanguageModel
    context: int
    stride: int
    progress: Progress

    def text(self, path: Path) -> Iterator[Tree]:
        with open_text(path) as file:
            text = file.read()
        with _naming(path):
            tokens = text_tokens(self.model, text)
            rows = Rows(tokens, self.context) if self.request.positions else None  # too short a text is said before the rest
            began_s = time.perf_counter()
            found = perplexity(
                self.model,
                text,
                self.context,
                self.stride,
                self.request.batch_tokens,
                self.request.words,
                self._counter(path.name, len(tokens) - 1),
            )
        measured = {
            **dataclasses.asdict(found),
            "words_counted_by": "--words" if self.request.words else "white space",
            "loss": found.loss,
            "token_perplexity": found.token_perplexity,
            "word_perplexity": found.word_perplexity,
            "bits_per_byte": found.bits_per_byte,
            "token_accuracy": found.token_accuracy,
        }
        yield self._result("perplexity", path.stem, began_s, {**_file_facts(path), **measured})
        if rows is not None:
            yield self._by_position(path.stem, rows, len(rows), None, "text_by_position", _file_facts(path))

    def lambada(self, path: Path) -> Tree:
        texts = list(jsonl_documents(path, "text", lambda n_bytes: None))
        if not texts:
            raise ConfigError(f"{path}: has no passages; one JSON object a line is needed, its text under 'text'")
        began_s = time.perf_counter()
        with _naming(path):
            found = lambada(self.model, texts, self.context, self.request.batch_tokens, self._counter(path.name, None))
        measured = {**dataclasses.asdict(found), "accuracy": found.accuracy, "perplexity": found.perplexity}
        return self._result("lambada", path.stem, began_s, {**_file_facts(path), **measured})

    def validation(self) -> Tree:
        config, corpus = self.found.config(), self.found.corpus()
        eot_id = None if config.data.attend_across_documents else corpus.eot_id
        facts = {"corpus_digest": corpus.digest}
        return self._by_position("validation", corpus.validation_rows(self.context), config.validation.rows, eot_id, "validation", facts)

    def _by_position(self, name: str, rows: Rows, n_rows: int, eot_id: int | None, kind: str, facts: Tree) -> Tree:
        began_s = time.perf_counter()
        numbers = spread_rows(rows, n_rows)
        counter = self._counter(name, len(numbers) * self.context)
        found = loss_by_position(self.model, rows[numbers], self.request.batch_tokens, eot_id, counter)
        return self._result(kind, name, began_s, {**facts, **_position_facts(found)})

    def _result(self, kind: str, name: str, began_s: float, facts: Tree) -> Tree:
        return {"kind": kind, "name": name, **facts, "seconds": round(time.perf_counter() - began_s, 3)}

    def _counter(self, label: str, total: int | None) -> OnTokens:
        done = 0

        def count(n_tokens: int) -> None:
            nonlocal done
            done += n_tokens
            self.progress(label, done, total, "tokens")

        self.progress(label, 0, total, "tokens")
        return count


def _position_facts(found: LossByPosition) -> Tree:
    ranges = [{"from": begin, "to": end - 1, "loss": loss} for begin, end, loss in found.ranges()]
    return {"n_rows": found.n_rows, "loss": found.loss, "token_perplexity": exp(found.loss), "ranges": ranges, "losses": found.losses}


def _model_facts(found: ModelSource, model: LanguageModel) -> Tree:
    manifest = found.stored.manifest if found.stored else None
    return {
        "folder": str(found.folder.absolute()),
        "run": manifest.run_name if manifest else None,
        "checkpoint": found.name if manifest else None,
        "step": found.step,
        "tokens_seen": manifest.counters.tokens_seen if manifest else None,
        "files_blake2b": manifest.files if manifest else None,
        "n_parameters": sum(p.numel() for p in model.module.parameters()),
        "n_entries": model.n_entries,
        "n_tokenizer_entries": len(model.tokenizer),
    }


def _file_facts(path: Path) -> Tree:
    return {"file": str(path.absolute()), "sha256": file_sha256(path)}


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the file's name before what is wrong with its content."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
