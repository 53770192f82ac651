"""What a store's client raises when the store is full, away or unwilling."""

import sys

# Not all of them are OSErrors. A module that is not loaded has raised nothing.
_OF_CLIENTS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
    ("requests.exceptions", "RequestException"),
)


class StorageError(OSError):
    """A store did not take or give something for as long as the user lets it; one line."""


def store_faults() -> tuple[type[Exception], ...]:
    """The exceptions to catch around a call of a store."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in _OF_CLIENTS)
    return (OSError, *(kind for kind in found if isinstance(kind, type)))
