"""How much of a text reads as Python, line by line: a plain measure of a model trained on source code."""

import io
import tokenize
from collections.abc import Iterable


def share_of_python(lines: Iterable[str]) -> float:
    """Share of the non-blank lines that Python's `tokenize` takes as they stand, indentation aside. 0 without lines."""
    shown = [line for line in lines if line.strip()]
    return sum(tokenizes(line) for line in shown) / len(shown) if shown else 0.0


def tokenizes(line: str) -> bool:
    """Whether one line is a whole number of Python tokens: no open string or bracket, no stray character."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(line.strip() + "\n").readline))
    except (tokenize.TokenError, SyntaxError):
        return False
    return not any(token.type == tokenize.ERRORTOKEN for token in tokens)
