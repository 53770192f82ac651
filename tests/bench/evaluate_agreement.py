"""Whether `raystage evaluate` agrees with transformers alone, and with lm_eval where it is installed (`pip install lm_eval`).

`python -m tests.bench.evaluate_agreement MODEL TEXT LAMBADA` with a Hugging Face folder, a text file and LAMBADA's JSON lines: prints each
figure three times, and fails where two of them are more than 1e-3 apart, relative.
"""

import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raystage.runtime.evaluate import Request, evaluate

TOLERANCE = 1e-3

Figures = dict[str, float]


def main() -> None:
    """The three columns, and exit code 1 where they disagree."""
    folder, text_file, lambada_file = sys.argv[1:4]
    with open(text_file, encoding="utf-8", newline="") as file:
        text = file.read()
    passages = [json.loads(line)["text"] for line in Path(lambada_file).read_text().splitlines() if line.strip()]
    columns = {"raystage": _by_raystage(folder, text_file, lambada_file), "transformers": _by_transformers(folder, text, passages)}
    if importlib.util.find_spec("lm_eval"):
        columns["lm_eval"] = _by_lm_eval(folder, text, passages)
    print(f"{'':24}" + "".join(f"{name:>22}" for name in columns) + f"{'apart, relative':>18}")
    worst = 0.0
    for figure in columns["raystage"]:
        values = [column[figure] for column in columns.values()]
        apart = (max(values) - min(values)) / max(max(values), 1e-12)
        worst = max(worst, apart)
        print(f"{figure:24}" + "".join(f"{value:22.9g}" for value in values) + f"{apart:18.1e}")
    sys.exit(worst > TOLERANCE)


def _by_raystage(folder: str, text_file: str, lambada_file: str) -> Figures:
    text, lambada = evaluate(folder, None, Request((Path(text_file),), Path(lambada_file), device="cpu"))["results"]
    names = ("token_perplexity", "word_perplexity", "bits_per_byte")
    return {name: text[name] for name in names} | {f"lambada_{name}": lambada[name] for name in ("accuracy", "perplexity")}


def _by_transformers(folder: str, text: str, passages: list[str]) -> Figures:
    """One window or passage at a time, logarithms in float64."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    context = model.config.max_position_embeddings

    def scored(inputs: list[int], targets: list[int]) -> tuple[float, bool]:
        with torch.no_grad():
            table = torch.log_softmax(model(torch.tensor([inputs[-context:]])).logits[0].double(), -1)[-len(targets) :]
        return -float(table[range(len(targets)), targets].sum()), table.argmax(1).tolist() == targets

    tokens = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    nll_nats = sum(
        scored(tokens[: end - 1], tokens[end - n : end])[0]
        for end, n in ((min(begin + context, len(tokens)), min(context, len(tokens) - begin)) for begin in range(1, len(tokens), context))
    )
    words = [scored(inputs, targets) for inputs, targets in _last_words(tokenizer, passages)]
    return _figures(nll_nats, len(tokens) - 1, text, words)


def _last_words(tokenizer: Any, passages: list[str]) -> Iterator[tuple[list[int], list[int]]]:
    for passage in passages:
        tokens = tokenizer(passage)["input_ids"]
        n_before = len(tokenizer(passage[: passage.rindex(" ")].rstrip())["input_ids"])
        yield tokens[:-1], tokens[n_before:]


def _by_lm_eval(folder: str, text: str, passages: list[str]) -> Figures:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model: Any = HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=8)

    def asked(kind: str, *arguments: str) -> Any:
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    (log_likelihood,) = model.loglikelihood_rolling([asked("loglikelihood_rolling", text)], disable_tqdm=True)
    pairs = [(" ".join(passage.split(" ")[:-1]), " " + passage.split(" ")[-1]) for passage in passages]
    found = model.loglikelihood([asked("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)
    words = [(-log_probability, bool(is_greedy)) for log_probability, is_greedy in found]
    return _figures(-log_likelihood, len(model.tok_encode(text)), text, words)


def _figures(nll_nats: float, n_tokens: int, text: str, words: list[tuple[float, bool]]) -> Figures:
    return {
        "token_perplexity": math.exp(nll_nats / n_tokens),
        "word_perplexity": math.exp(nll_nats / len(text.split())),
        "bits_per_byte": nll_nats / len(text.encode()) / math.log(2),
        "lambada_accuracy": sum(hit for _, hit in words) / len(words),
        "lambada_perplexity": math.exp(sum(nll for nll, _ in words) / len(words)),
    }


if __name__ == "__main__":
    main()
