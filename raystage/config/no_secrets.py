"""No secret inside a configuration: it is written into run folders, shown, and sent to MLflow, where it would stay."""

from collections.abc import Mapping
from typing import Any

from raystage.config.errors import ConfigError
from raystage.config.redact import holds_secret

_OF_STORES = "set what its library reads instead (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, FSSPEC_*)"
_INSTEAD = {
    "tracking.mlflow_uri": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead, or all of it as MLFLOW_TRACKING_URI",
    "storage": _OF_STORES,
    "data.cache_dir": _OF_STORES,
    "runtime.address": "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH instead",
}
_ELSE = "name it without; libraries read their secrets from the environment"


def check_no_secrets(values: Mapping[str, Any]) -> None:
    """Of dotted keys to values. Raises ConfigError, which shows no secret, for the first address that has one inside."""
    for key, value in values.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and holds_secret(text):
                raise ConfigError(f"{key}={text}: a secret in an address ends up in files and logs; {_INSTEAD.get(key, _ELSE)}")
