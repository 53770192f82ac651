"""Text from a model: greedy or sampled, of any length."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy; `top_k` 0 and `top_p` 1 sample from every entry."""

    temperature: float = 0.7
    top_k: int = 50
    top_p: float = 1.0
    seed: int = 0


class Generator:
    """A Hugging Face causal LM folder with its tokenizer, ready to write. Raises ValueError for a folder without them."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # models load in a moment, and their bar lands between the lines of the command
        if not (folder / "config.json").is_file() or not (folder / "tokenizer.json").is_file():
            raise ValueError(f"{folder}: no model with a tokenizer; give a finished run, or a folder made by 'raystage export'")
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.end_of_text: str = self._tokenizer.eos_token
        self._context_tokens: int = self._model.config.max_position_embeddings

    def texts(self, prompt: str, n_texts: int, n_tokens: int, sampling: Sampling) -> list[str]:
        """`n_texts` continuations of `prompt` by `n_tokens` tokens each, `end_of_text` standing between documents.

        An empty prompt is the start of a document.
        """
        start = self._tokenizer(prompt)["input_ids"] if prompt else [self._tokenizer.bos_token_id]
        tokens_BL = torch.tensor([start] * n_texts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sampling.seed)
            while tokens_BL.shape[1] < len(start) + n_tokens:
                tokens_BL = self._extend(tokens_BL, len(start) + n_tokens - tokens_BL.shape[1], sampling)
        return [self._tokenizer.decode(row) for row in tokens_BL[:, len(start) :].tolist()]

    def _extend(self, tokens_BL: Tensor, n_tokens: int, sampling: Sampling) -> Tensor:
        """As many tokens more as fit behind the latest half context: positions end at the context's length."""
        window_BL = tokens_BL[:, -max(1, self._context_tokens // 2) :] if tokens_BL.shape[1] >= self._context_tokens else tokens_BL
        n_tokens = min(n_tokens, self._context_tokens - window_BL.shape[1])
        chosen = {"do_sample": False} if sampling.temperature == 0 else _sampled(sampling)
        # entries beyond the tokenizer's only pad the vocabulary; end-of-text starts a new document and does not end the text
        padding = list(range(len(self._tokenizer), self._model.config.vocab_size)) or None
        written_BL = self._model.generate(
            window_BL,
            attention_mask=torch.ones_like(window_BL),
            min_new_tokens=None,
            max_new_tokens=n_tokens,
            eos_token_id=None,
            pad_token_id=self._tokenizer.eos_token_id,
            suppress_tokens=padding,
            use_cache=True,
            **chosen,
        )
        return torch.cat([tokens_BL, cast(Tensor, written_BL)[:, window_BL.shape[1] :]], 1)


def _sampled(sampling: Sampling) -> dict[str, Any]:
    return {"do_sample": True, "temperature": sampling.temperature, "top_k": sampling.top_k or None, "top_p": sampling.top_p}
