"""Where a folder lies: a path of this machine, or a URI that fsspec opens."""

import hashlib
import re
from pathlib import Path

import fsspec
from fsspec.registry import known_implementations

from raystage.config.errors import ConfigError
from raystage.storage.faults import store_faults

_URI = re.compile(r"^[a-z][a-z0-9+.-]*://")


def is_uri(address: str) -> bool:
    """Whether `address` is a URI, like s3://bucket/runs, and not a path."""
    return _URI.match(address) is not None


def open_filesystem(uri: str, key: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URI and the path in it. Raises ConfigError, with `key`, where fsspec has no way to open it."""
    protocol = uri.partition("://")[0]
    try:
        filesystem, path = fsspec.url_to_fs(uri)
    except ImportError:
        package = str(known_implementations.get(protocol, {}).get("class", protocol)).partition(".")[0]
        raise ConfigError(
            f"{key}={uri}: {protocol}:// needs a package that is not installed; pip install {package}, on every node"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{key}={uri}: {error}; use a path, s3://, gs:// or another protocol of fsspec") from None
    except store_faults() as error:  # of protocols that connect at once
        raise ConfigError(f"{key}={uri}: cannot be reached ({error}); check the address and that it is up") from None
    return filesystem, str(path).rstrip("/")


def local_folder_of(uri: str, cache: str) -> Path:
    """The folder below `cache` that stands for `uri` on this machine; no two URIs share one."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", uri).strip("-")[:60]
    digest = hashlib.blake2b(uri.rstrip("/").encode(), digest_size=4).hexdigest()
    return Path(cache).expanduser().absolute() / f"{readable}-{digest}"
