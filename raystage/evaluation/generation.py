"""Text from a model: greedy or sampled, of any length."""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from raystage.config.errors import ConfigError
from raystage.evaluation.language_model import LanguageModel, evaluating

_GREEDY_BELOW = 1e-6


@dataclasses.dataclass(frozen=True)
class Sampling:
    """`temperature` below 1e-6 is greedy, since logits over so little overflow; `top_k` 0 and `top_p` 1 sample from every entry."""

    temperature: float = 0.7
    top_k: int = 50
    top_p: float = 1.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Sample:
    """`text`: what the model wrote behind `prompt`, to the end of its document or of `tokens`; the rest as of Sampling."""

    prompt: str
    temperature: float
    top_k: int
    top_p: float
    seed: int
    tokens: int
    text: str


# what a table of samples shows: the likeliest text, a careful choice, the model's own distribution, and that without its tail
TABLE_SETTINGS = (Sampling(0, 0), Sampling(0.7, 0), Sampling(1.0, 0), Sampling(1.0, 0, 0.9))


class Generator:
    """A model ready to write. Raises ConfigError where its longest sequence is not known."""

    def __init__(self, model: LanguageModel) -> None:
        if model.context_tokens is None:
            raise ConfigError("the model's configuration has no max_position_embeddings: how much it can read at once is not known")
        self._model, self._context_tokens = model, model.context_tokens
        tokenizer = model.tokenizer
        self.end_of_text: str = tokenizer.eos_token or tokenizer.bos_token

    def samples(self, prompt: str, n_samples: int, n_tokens: int, sampling: Sampling) -> list[Sample]:
        """`n_samples` continuations of `prompt`, each to the end of its document or of `n_tokens`."""
        settings = dataclasses.asdict(sampling)
        texts = self.texts(prompt, n_samples, n_tokens, sampling)
        return [Sample(prompt=prompt, **settings, tokens=n_tokens, text=text.partition(self.end_of_text)[0]) for text in texts]

    def table(self, prompts: Sequence[str], n_tokens: int, seed: int) -> list[Sample]:
        """A sample for each prompt and each of TABLE_SETTINGS, in this order."""
        return [
            sample
            for prompt in prompts
            for settings in TABLE_SETTINGS
            for sample in self.samples(prompt, 1, n_tokens, dataclasses.replace(settings, seed=seed))
        ]

    def texts(self, prompt: str, n_texts: int, n_tokens: int, sampling: Sampling) -> list[str]:
        """`n_texts` continuations of `prompt` by `n_tokens` tokens each, `end_of_text` standing between documents.

        An empty prompt is the start of a document.
        """
        tokenizer, device = self._model.tokenizer, self._model.device
        start = tokenizer(prompt)["input_ids"] if prompt else [self._model.prefix_id]
        tokens_BL = torch.tensor([start] * n_texts, device=device.torch_device)
        with device.random_state_kept(), evaluating(self._model.module):
            device.seed(sampling.seed)
            while tokens_BL.shape[1] < len(start) + n_tokens:
                tokens_BL = self._extend(tokens_BL, len(start) + n_tokens - tokens_BL.shape[1], sampling)
        return [tokenizer.decode(row) for row in tokens_BL[:, len(start) :].tolist()]

    def _extend(self, tokens_BL: Tensor, n_tokens: int, sampling: Sampling) -> Tensor:
        """As many tokens more as fit behind the latest half context: positions end at the context's length."""
        window_BL = tokens_BL[:, -max(1, self._context_tokens // 2) :] if tokens_BL.shape[1] >= self._context_tokens else tokens_BL
        n_tokens = min(n_tokens, self._context_tokens - window_BL.shape[1])
        chosen = {"do_sample": False} if sampling.temperature < _GREEDY_BELOW else _sampled(sampling)
        # entries beyond the tokenizer's only pad the vocabulary; end-of-text starts a new document and does not end the text
        padding = list(range(len(self._model.tokenizer), self._model.n_entries)) or None
        written_BL = self._model.module.generate(
            window_BL,
            attention_mask=torch.ones_like(window_BL),
            min_new_tokens=None,
            max_new_tokens=n_tokens,
            eos_token_id=None,
            pad_token_id=self._model.prefix_id,
            suppress_tokens=padding,
            use_cache=True,
            **chosen,
        )
        return torch.cat([tokens_BL, cast(Tensor, written_BL)[:, window_BL.shape[1] :]], 1)


def _sampled(sampling: Sampling) -> dict[str, Any]:
    return {"do_sample": True, "temperature": sampling.temperature, "top_k": sampling.top_k or None, "top_p": sampling.top_p}
