"""After training: the model as a Hugging Face folder, a sample of its text, the report."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from raystage.config import Config
from raystage.data.corpus import Corpus
from raystage.devices.device import pick_device
from raystage.evaluation.generation import Generator, Sampling
from raystage.evaluation.language_model import open_language_model
from raystage.evaluation.python_lines import share_of_python
from raystage.runtime.export import choose_checkpoint, export
from raystage.runtime.run_folder import RunFolder

_STREAMS = 8
_TOKENS_A_LINE = 24
_TABLE_TOKENS = 64
_PROMPT_TOKENS = 16  # of held-out text


@dataclasses.dataclass(frozen=True)
class Products:
    """What a finished run leaves for people; `sample_facts` is None where no sample was asked for."""

    model: Path
    page: Path
    sample_facts: dict[str, Any] | None


def wrap_up(config: Config, corpus: Corpus, folder: RunFolder) -> Products:
    """Exports the newest checkpoint, writes the sample and builds the report."""
    from raystage.report.build import build_report  # what draws takes a second to import, and training begins without it

    model = export(choose_checkpoint(folder.path, None), corpus.tokenizer(), folder.path / "model")
    folder.report.mkdir(exist_ok=True)
    facts = _write_sample(config, corpus, model, folder.report) if config.sample.lines else None
    return Products(model, build_report([folder.path], folder.report), facts)


def _write_sample(config: Config, corpus: Corpus, model: Path, report: Path) -> dict[str, Any]:
    generator = Generator(open_language_model(model, pick_device("cpu")))
    lines = _generated_lines(config, generator)
    table = generator.table(("", _held_out_beginning(corpus)), _TABLE_TOKENS, config.seed)
    (report / "samples.json").write_text(json.dumps([dataclasses.asdict(sample) for sample in table], indent=1))
    (report / "sample.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    facts: dict[str, Any] = {"lines": len(lines)}
    if all(source.kind == "stdlib" for source in config.data.sources):
        facts["share_of_python"] = share_of_python(lines)
        facts["share_of_python_held_out"] = share_of_python(_held_out_lines(corpus))
    (report / "sample.json").write_text(json.dumps(facts, indent=1))
    return facts


def _generated_lines(config: Config, generator: Generator) -> list[str]:
    """The wanted number of whole non-blank lines, from several texts written side by side."""
    sample = config.sample
    lines: list[str] = []
    for attempt in range(20):
        sampling = Sampling(sample.temperature, sample.top_k, seed=config.seed + attempt)
        missing = sample.lines - len(lines)
        n_tokens = max(_TOKENS_A_LINE, missing * _TOKENS_A_LINE // _STREAMS)
        for text in generator.texts("", _STREAMS, n_tokens, sampling):
            # a document's end ends a line; the last line was cut off where the tokens ended
            lines += [line for line in text.replace(generator.end_of_text, "\n").splitlines()[:-1] if line.strip()]
        if len(lines) >= sample.lines:
            break
    return lines[: sample.lines]


def _held_out_beginning(corpus: Corpus) -> str:
    tokens = np.asarray(corpus.validation_rows(_PROMPT_TOKENS)[0])[:_PROMPT_TOKENS]
    return str(corpus.tokenizer().decode(tokens.tolist(), skip_special_tokens=True))


def _held_out_lines(corpus: Corpus) -> list[str]:
    tokens = np.asarray(corpus.validation_rows(8).tokens)
    return str(corpus.tokenizer().decode(tokens.tolist(), skip_special_tokens=True)).splitlines()
