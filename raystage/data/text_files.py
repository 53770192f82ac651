"""Source kind `text`: plain text files."""

import io
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO

from raystage.data.files import OnBytes, open_text

WHOLE_FILE_CHARACTERS = 1_000_000
DOCUMENT_CHARACTERS = 4_000
LONGEST_CHARACTERS = 16_000


def text_documents(path: Path, is_alone: bool, on_bytes: OnBytes) -> Iterator[str]:
    """One document a file; the only file of a source, or one above a million characters, is cut into many (see `cut`).

    Raises ConfigError for a file that cannot be read, is damaged or not UTF-8.
    """
    with open_text(path, on_bytes) as text:
        start = "" if is_alone else text.read(WHOLE_FILE_CHARACTERS + 1)
        if 0 < len(start) <= WHOLE_FILE_CHARACTERS:
            yield start
        else:
            start += text.readline(LONGEST_CHARACTERS)
            yield from cut(chain(_lines(io.StringIO(start, newline="")), _lines(text)))


def cut(lines: Iterator[str]) -> Iterator[str]:
    """Lines (with their ends) as documents that joined again are the text: so that some can be held out.

    A document ends at the first blank line after 4,000 characters, or else at the first line end after 16,000.
    """
    document: list[str] = []
    n_characters = 0
    for line in lines:
        document.append(line)
        n_characters += len(line)
        if n_characters >= LONGEST_CHARACTERS or (n_characters >= DOCUMENT_CHARACTERS and not line.strip()):
            yield "".join(document)
            document, n_characters = [], 0
    if document:
        yield "".join(document)


def _lines(text: IO[str]) -> Iterator[str]:
    """Lines with their ends; one that is longer than LONGEST_CHARACTERS comes in pieces."""
    return iter(lambda: text.readline(LONGEST_CHARACTERS), "")
