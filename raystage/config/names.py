"""Names that come from outside and become parts of paths."""

import re
from pathlib import PurePosixPath

from raystage.config.errors import ConfigError

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_LONGEST = 255  # bytes, of filesystems
_SHOWN = 80  # characters


def check_name(name: str, key: str) -> str:
    """The name of one file or folder, which it returns: it leaves no folder. Raises ConfigError, with `key`."""
    if not re.fullmatch(NAME.strip("^$"), name) or len(name) > _LONGEST:
        raise ConfigError(f"{key} {shortened(name)!r}: must be letters, digits, '.', '_' and '-', beginning with a letter or digit")
    return name


def shortened(text: str) -> str:
    """The text as a message shows it, cut after 80 characters."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def is_below(name: str) -> bool:
    """Whether a relative path with slashes stays below the folder that it is put behind."""
    parts = name.split("/")
    return name.isprintable() and not PurePosixPath(name).is_absolute() and not {"", ".", ".."} & set(parts)
