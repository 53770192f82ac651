"""How text becomes tokens: a byte-level BPE of our own, a tokenizer.json, or one of the hub's."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from raystage.config import ConfigError
from raystage.config.schema import Tokenizer as TokenizerSettings

END_OF_TEXT = "<|endoftext|>"

# Said once, so that the library does not print a warning into every process that is forked later.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer and the name of its end-of-text entry, which no text is ever encoded to."""

    backend: Tokenizer
    eot_token: str

    def __post_init__(self) -> None:
        assert self.backend.token_to_id(self.eot_token) is not None
        self.backend.no_truncation()
        self.backend.no_padding()
        # marks an entry that is an ordinary one in the file; its number stays
        self.backend.add_special_tokens([self.eot_token])
        # a document that spells out a special token is about it, not at its end
        self.backend.encode_special_tokens = True

    @cached_property
    def vocab_size(self) -> int:
        """[entries] highest token number + 1: some files leave gaps."""
        return max(self.backend.get_vocab().values()) + 1

    @cached_property
    def eot_id(self) -> int:
        return self.backend.get_vocab()[self.eot_token]

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One uint32 array a text, nothing put before or after. May be called from several threads."""
        # a call a text keeps to the calling thread: whoever calls says how many work at once
        encodings = (self.backend.encode_batch_fast([text], add_special_tokens=False)[0] for text in texts)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def save(self, path: Path) -> None:
        self.backend.save(str(path), pretty=False)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> TextTokenizer:
    """A byte-level BPE (GPT-2's kind) of up to `vocab_size` entries: end-of-text, 256 bytes, then merges; fewer if the text has no more."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return TextTokenizer(backend, END_OF_TEXT)


def load_tokenizer(settings: TokenizerSettings) -> TextTokenizer:
    """The tokenizer of kind `file` or `hub`. Raises ConfigError where it cannot be read or has no end-of-text entry."""
    return _from_file(settings.path or "") if settings.kind == "file" else _from_hub(settings.name or "")


def _from_file(name: str) -> TextTokenizer:
    path = Path(name).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(
            f"data.tokenizer.path={name}: {path.name} cannot be read ({reason}); give a tokenizer.json or its folder"
        ) from None
    try:
        backend = Tokenizer.from_str(text)
    except Exception as error:  # the library raises this class itself
        raise ConfigError(f"data.tokenizer.path={name}: no tokenizer.json of the tokenizers library ({error})") from None
    return _with_end_of_text(backend, _eos_token_beside(path), f"data.tokenizer.path={name}")


def _eos_token_beside(path: Path) -> str | None:
    """`eos_token` of the tokenizer_config.json in the same folder, if there is one."""
    try:
        eos = json.loads((path.parent / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError):
        return None
    return eos.get("content") if isinstance(eos, dict) else eos


def _from_hub(name: str) -> TextTokenizer:
    # seconds to load, and only this kind needs it
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)  # nosec B615  # the corpus' digest has its content
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(f"data.tokenizer.name={name}: cannot be loaded ({reason}); check the name and your connection") from None
    if not tokenizer.is_fast:
        raise ConfigError(f"data.tokenizer.name={name}: has no tokenizer.json; choose one that has")
    return _with_end_of_text(Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), tokenizer.eos_token, f"data.tokenizer.name={name}")


def _with_end_of_text(backend: Tokenizer, eos_token: str | None, key: str) -> TextTokenizer:
    for token in (END_OF_TEXT, eos_token):
        if token is not None and backend.token_to_id(token) is not None:
            return TextTokenizer(backend, token)
    raise ConfigError(f"{key}: has no entry {END_OF_TEXT} and no eos_token; add one, or choose another tokenizer")
