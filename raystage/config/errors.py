"""The error a user can mend by changing the configuration."""

from raystage.config.redact import redacted


class ConfigError(ValueError):
    """One line that names the key, the value and what is allowed; the command line exits with 2.

    Line breaks and control characters, which keys, values and paths can bring in, become spaces; secrets in addresses become `***`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redacted("".join(c if c.isprintable() else " " for c in message)))
