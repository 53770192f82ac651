"""Addresses of Ray clusters, checked before anything connects to them."""

import re

from raystage.config.errors import ConfigError
from raystage.config.names import shortened
from raystage.config.redact import HIDDEN

LOCAL = "local"  # Ray's word for a cluster of one's own
_FORM = re.compile(r"(?:ray://)?(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
_LONGEST = 300


def check_address(address: str, key: str) -> tuple[str, int] | None:
    """Host and port of a Ray address; None for 'auto' and 'local'. Raises ConfigError, with `key`, for what is none."""
    if address in ("auto", LOCAL):
        return None
    found = _FORM.fullmatch(address) if len(address) <= _LONGEST else None
    if found is None or not 0 < int(found["port"]) < 2**16:
        _, at, host = address.rpartition("@")
        shown = shortened(f"{HIDDEN}@{host}" if at else address)  # what stands before it would be a password
        raise ConfigError(f"{key}={shown!r}: must be HOST:PORT of a Ray head, like 10.0.0.5:6379, or 'auto'")
    return found["host"].strip("[]"), int(found["port"])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host of that name."""
    return host in ("localhost", "::1", "[::1]") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None
