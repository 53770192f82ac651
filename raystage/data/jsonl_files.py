"""Source kind `jsonl`: one JSON object a line, the text in one of its fields."""

import json
from collections.abc import Iterator
from pathlib import Path

from raystage.config import ConfigError
from raystage.data.files import OnBytes, open_bytes


def jsonl_documents(path: Path, text_key: str, on_bytes: OnBytes) -> Iterator[str]:
    """The field `text_key` of every line; blank lines are passed over.

    Raises ConfigError with file and line number for a line that is no JSON object or has no such text.
    """
    with open_bytes(path, on_bytes) as content:
        for number, line in enumerate(content, start=1):
            if line.strip():
                yield _text(line, text_key, f"{path} line {number}")


def _text(line: bytes, text_key: str, where: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets in brackets
        raise ConfigError(f"{where}: not JSON ({error}); one object a line is needed") from None
    if not isinstance(record, dict):
        raise ConfigError(f"{where}: holds {type(record).__name__}, must be an object with the field {text_key!r}")
    if text_key not in record:
        raise ConfigError(f"{where}: no field {text_key!r}, it has {', '.join(map(repr, record)) or 'none'}; set text_key of the source")
    text = record[text_key]
    if not isinstance(text, str):
        raise ConfigError(f"{where}: field {text_key!r} holds {type(text).__name__}, must be text; mend the line or set text_key")
    if not text.isascii() and _has_lone_surrogate(text):
        raise ConfigError(f"{where}: field {text_key!r} holds half a surrogate pair (\\ud800 to \\udfff), no character; mend the line")
    return text


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
