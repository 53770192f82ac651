"""Secrets of a job by reference: a file on the nodes, like a mounted Kubernetes Secret, whose lines become environment variables."""

import os
from collections.abc import MutableMapping
from pathlib import Path

from raystage.config import ConfigError

SECRETS_FILE = "RAYSTAGE_SECRETS_FILE"


def load_secrets(environment: MutableMapping[str, str] = os.environ) -> None:
    """Takes in the lines `NAME=value` of the file that RAYSTAGE_SECRETS_FILE names; what is set already stays.

    Raises ConfigError, without a word of the file's content, for a file that cannot be read or a line of another form.
    """
    name = environment.get(SECRETS_FILE)
    if not name:
        return
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{SECRETS_FILE}={name}: cannot be read ({reason}); it must be there on every node") from None
    for number, line in enumerate(lines, 1):
        key, separator, value = line.strip().partition("=")
        if line.strip() and not line.lstrip().startswith("#"):
            if not separator or not key.isidentifier() or "\0" in value:
                raise ConfigError(f"{name}:{number}: not of the form NAME=value")
            environment.setdefault(key, value)
