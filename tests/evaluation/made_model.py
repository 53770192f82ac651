"""A tiny model with a tokenizer in a Hugging Face folder, and what transformers alone makes of it."""

import functools
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from raystage.data.tokenizer import train_tokenizer
from raystage.devices.device import pick_device
from raystage.evaluation.language_model import LanguageModel, open_language_model

CONTEXT_TOKENS = 16
_PADDED_ENTRIES = 320  # the tokenizer has fewer
_WORDS = ["the", "loss", "of", "a", "model", "falls", "as", "stages", "grow", "longer", "and", "wider", "until", "slopes", "rest"]


def made_text(n_words: int, seed: int = 1) -> str:
    """Lines of words, with runs of white space between some, and a character of three bytes."""
    chosen = random.Random(seed).choices(_WORDS, k=n_words)
    return " ".join(chosen[: n_words // 2]) + " €\n\n " + " ".join(chosen[n_words // 2 :]) + "\n"


def made_folder(folder: Path, family: str = "gpt2", dropout: float = 0.0) -> Path:
    """A model whose weights are large enough for its tokens to differ in probability, with its tokenizer."""
    torch.manual_seed(3)
    tokenizer = train_tokenizer([made_text(400)], 300)
    shape: dict[str, Any] = {"vocab_size": _PADDED_ENTRIES, "bos_token_id": tokenizer.eot_id, "eos_token_id": tokenizer.eot_id}
    if family == "gpt2":
        drops: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
        model: Any = GPT2LMHeadModel(GPT2Config(**shape, **drops, n_positions=CONTEXT_TOKENS, n_embd=16, n_layer=2, n_head=2))
    else:
        sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(**shape, **sizes, max_position_embeddings=CONTEXT_TOKENS, attention_dropout=dropout))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    model.save_pretrained(folder)
    tokenizer.save(folder / "tokenizer.json")
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token=tokenizer.eot_token, eos_token=tokenizer.eot_token
    ).save_pretrained(folder)
    return folder


def opened(folder: Path, **options: Any) -> LanguageModel:
    return open_language_model(folder, pick_device("cpu"), **options)


def plain_log_probabilities(folder: Path, sequence: list[int]) -> NDArray[np.float64]:
    """By transformers alone, one sequence, logarithms in float64: row i over all entries, given tokens 0 to i."""
    with torch.no_grad():
        logits = _loaded(folder)(torch.tensor([sequence])).logits[0]
    return torch.log_softmax(logits.double(), -1).numpy()


@functools.cache
def _loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()
