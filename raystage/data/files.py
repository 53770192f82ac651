"""Files of text: which ones a pattern names, and their content, unpacked. Every failure is one line that names the file."""

import glob
import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from raystage.config import ConfigError

OnBytes = Callable[[int], None]
READ_BYTES = 1 << 16


def ignore_bytes(n_bytes: int) -> None:
    """The reader's callback of someone who does not want to know."""


def matching_files(pattern: str) -> list[Path]:
    """The files that a path or glob (`**` too) names, sorted. Raises ConfigError where there is none."""
    expanded = Path(pattern).expanduser()
    try:
        return _matching(pattern, expanded)
    except OSError as error:
        raise _unreadable(expanded, error) from None


def _matching(pattern: str, expanded: Path) -> list[Path]:
    if expanded.is_dir():
        raise ConfigError(f"{pattern}: is a folder; name files in it, like {pattern.rstrip('/')}/*.jsonl")
    if expanded.exists():
        return [expanded]
    found = sorted(Path(name) for name in glob.glob(str(expanded), recursive=True))
    files = [path for path in found if not path.is_dir()]
    if not files:
        raise ConfigError(f"{pattern}: no file there; check the path of the source (relative paths start at the working folder)")
    return files


@contextmanager
def open_bytes(path: Path, on_bytes: OnBytes = ignore_bytes) -> Iterator[IO[bytes]]:
    """The unpacked content of a plain, .gz, .xz or .zst file; `on_bytes` hears of every packed piece read.

    Raises ConfigError for what goes wrong inside the `with`, too: unreadable, damaged, not UTF-8.
    """
    try:
        with io.BufferedReader(_CountedFile(path, on_bytes), READ_BYTES) as packed, _unpacked(packed, path.suffix) as content:
            yield content
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise ConfigError(f"{path}: damaged archive ({_first_line(error)}); fetch or pack it again") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text ({error.reason}); convert it, or give a packed file its ending .gz, .xz or .zst"
        ) from None
    except OSError as error:
        # decompressors raise OSError without an errno
        if error.errno is None:
            raise ConfigError(f"{path}: damaged archive ({_first_line(error)}); fetch or pack it again") from None
        raise _unreadable(path, error) from None


@contextmanager
def open_text(path: Path, on_bytes: OnBytes = ignore_bytes) -> Iterator[IO[str]]:
    """The content as UTF-8 text, line ends as they are. Raises ConfigError like open_bytes."""
    with open_bytes(path, on_bytes) as content, io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as text:
        yield text


def file_sha256(path: Path) -> str:
    """Hex digest of the file as it is, packed. Raises ConfigError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def source_sha256(path: Path) -> str:
    """The same of a source's file, read once by this process as long as its size and time stay."""
    try:
        seen = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return _sha256_of(path, seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _sha256_of(path: Path, n_bytes: int, modified_ns: int) -> str:
    return file_sha256(path)


class _CountedFile(io.FileIO):
    def __init__(self, path: Path, on_bytes: OnBytes) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes

    def readinto(self, buffer: Any, /) -> int | None:
        n_bytes = super().readinto(buffer)
        self._on_bytes(n_bytes or 0)
        return n_bytes


def _unpacked(packed: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=packed), READ_BYTES)
    if suffix == ".xz":
        return io.BufferedReader(lzma.LZMAFile(packed), READ_BYTES)
    if suffix == ".zst":
        # loaded only where needed; unlike zstandard's reader it notices a truncated file
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(packed, compression="zstd"), READ_BYTES)
    return packed


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions")
