"""A causal LM with its tokenizer on a device, as evaluation and generation use it."""

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from raystage.config.errors import ConfigError
from raystage.devices.device import Device, Precision

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within it `module` has no dropout and keeps no gradients; afterwards it is in the mode it was in.

    Nothing in this process runs compiled code meanwhile: each of these passes would be another code to compile.
    """
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        module.train(was_training)


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
    """`module`: a causal LM of transformers on `device`, in float32; `tokenizer`: of transformers.

    `context_tokens`: the longest sequence that it takes, None where its configuration does not say.
    """

    module: Any
    tokenizer: Any
    device: Device
    precision: Precision = "float32"

    @property
    def context_tokens(self) -> int | None:
        return getattr(self.module.config, "max_position_embeddings", None)

    @property
    def n_entries(self) -> int:
        """Of the vocabulary, those that only pad it included."""
        return int(self.module.config.vocab_size)

    @property
    def prefix_id(self) -> int:
        """What stands before the first token of a text: the beginning of a text, or the end of the one before it."""
        first, other = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return int(first if first is not None else other)

    def logits(self, inputs_BL: Tensor, n_last: int, mask_B1LL: Tensor | None = None, position_BL: Tensor | None = None) -> Tensor:
        """Of the last `n_last` positions, over all entries of the vocabulary: shape (B, n_last, V). The caller sees to `evaluating`."""
        last = {"logits_to_keep": n_last} if _takes_logits_to_keep(self.module) else {}
        with self.device.autocast(self.precision), self.device.full_float32():
            output = self.module(input_ids=inputs_BL, attention_mask=mask_B1LL, position_ids=position_BL, use_cache=False, **last)
        return cast(Tensor, output.logits)[:, -n_last:]


def open_language_model(folder: Path, device: Device, precision: Precision = "float32", tokenizer: Any = None) -> LanguageModel:
    """The model in a Hugging Face folder, its weights as float32, on `device`.

    `tokenizer`: one of transformers in place of the folder's own. Raises ConfigError for a folder without a tokenizer, or whose model
    cannot be loaded whole.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder}: no model there (no config.json); give a run, a raystage checkpoint or a Hugging Face folder")
    tokenizer = tokenizer if tokenizer is not None else load_tokenizer(folder)
    return place_language_model(_load(folder), tokenizer, device, precision)


def place_language_model(module: Any, tokenizer: Any, device: Device, precision: Precision) -> LanguageModel:
    """A model and its tokenizer put on `device`. Raises ConfigError where the two do not belong together."""
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise ConfigError("the tokenizer has neither bos_token nor eos_token; one of them has to stand before the first token of a text")
    if len(tokenizer) > module.config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {len(tokenizer)} entries, the model {module.config.vocab_size}; give the tokenizer that it was trained with"
        )
    return LanguageModel(module.to(device.torch_device).eval(), tokenizer, device, precision)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a Hugging Face folder. Raises ConfigError."""
    # seconds to load
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ConfigError(f"{folder}: no tokenizer there; copy the model's tokenizer.json into it, or give the run it comes from")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)  # nosec B615  # a folder
    except Exception as error:  # of many libraries, and whatever is wrong with a file of the user's
        raise ConfigError(f"{folder}: its tokenizer cannot be loaded ({_one_line(error)}); copy it again") from None


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # models load in a moment, and their bar lands between the lines of the command
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(  # nosec B615  # a folder
            folder,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,  # a pickle could run code
            trust_remote_code=False,
            local_files_only=True,
        )
    except Exception as error:  # of many libraries, and whatever is wrong with a file of the user's
        raise ConfigError(f"{folder}: its model cannot be loaded ({_one_line(error)}); copy it again, whole, as safetensors") from None
    module, report = loaded
    if lacking := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise ConfigError(f"{folder}: lacks {lacking[0]} as its config.json asks for it, and {len(lacking) - 1} more; copy it again, whole")
    return module


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(" .") or type(error).__name__


def _takes_logits_to_keep(module: nn.Module) -> bool:
    return "logits_to_keep" in inspect.signature(module.forward).parameters
