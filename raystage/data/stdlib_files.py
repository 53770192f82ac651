"""Source kind `stdlib`: the Python library's own sources, the text that every machine with Python has."""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from raystage.config import ConfigError
from raystage.data.files import OnBytes

SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "turtledemo", "__pycache__"})


def stdlib_folder() -> Path:
    """Where this Python keeps its library."""
    return Path(sysconfig.get_path("stdlib"))


def stdlib_files() -> list[Path]:
    """Every .py file of the library, sorted by path below its folder. Raises ConfigError where there is none."""
    folder = stdlib_folder()
    files = []
    # pruned on the way down: site-packages may hold a hundred thousand files
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        files += [Path(parent, name) for name in names if name.endswith(".py")]
    if not files:
        raise ConfigError(f"{folder}: no Python sources there; give data.sources of kind text or jsonl")
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def stdlib_documents(on_bytes: OnBytes) -> Iterator[str]:
    """One document a file; files that are not UTF-8 are passed over."""
    for path in stdlib_files():
        content = path.read_bytes()
        on_bytes(len(content))
        try:
            yield content.decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
