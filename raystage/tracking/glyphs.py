"""The characters that the live view is drawn with, for terminals with and without Unicode."""

import dataclasses
import os
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Glyphs:
    """`bars`: from low to high."""

    dot: str
    arrow: str
    plus_minus: str
    bars: str
    encoding: str

    def clean(self, text: str) -> str:
        """The text in what the terminal can show."""
        return text.replace("→", self.arrow).encode(self.encoding, "replace").decode(self.encoding)


UNICODE = Glyphs(" · ", "→", "±", "▁▂▃▄▅▆▇█", "utf-8")
ASCII = Glyphs(" | ", "->", "+/-", "_.:-=+*#", "ascii")


def is_plain_locale(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the first of LC_ALL, LC_CTYPE and LANG that is set asks for ASCII; C.UTF-8 in LC_CTYPE is Python's own doing."""
    ctype = environment.get("LC_CTYPE", "")
    asked = environment.get("LC_ALL") or ("" if ctype == "C.UTF-8" else ctype) or environment.get("LANG") or ""
    return asked in ("C", "POSIX")
