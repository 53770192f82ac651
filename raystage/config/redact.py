"""Secrets inside addresses: a password before the host, a signature or token in the query. Found, and put out of sight."""

import re

HIDDEN = "***"
_END = r"\s'\"<>"  # where an address ends in a sentence
# user:password@ up to the last @ before the path; of HTTP a name alone may be a token already
_USER = re.compile(rf"(?P<before>\b[a-z][a-z0-9+.-]*://)(?P<secret>[^/?#{_END}]*:[^/?#{_END}]*)(?=@)", re.IGNORECASE)
# of databases, whose clients take a password with any sign in it
_DATABASE = re.compile(
    rf"(?P<before>\b(?:postgresql|postgres|mysql|mssql|oracle|redis|rediss|mongodb)[a-z0-9+.-]*://)(?P<secret>[^:{_END}/]*:[^{_END}]*)(?=@)",
    re.IGNORECASE,
)
_TOKEN = re.compile(rf"(?P<before>\bhttps?://)(?P<secret>[^/?#:@{_END}]+)(?=@)", re.IGNORECASE)
_QUERY = re.compile(
    r"(?P<before>[?&](?:[\w.-]*(?:signature|credential|token|secret|password|passwd|pwd|api_?key|access_?key(?:_?id)?)|sig|key)=)"
    rf"(?P<secret>[^&#{_END}]+)",
    re.IGNORECASE,
)
_PATTERNS = (_DATABASE, _USER, _TOKEN, _QUERY)


def redacted(text: str) -> str:
    """The text with `***` for every secret inside an address in it."""
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<before>{HIDDEN}", text)
    return text


def holds_secret(text: str) -> bool:
    """Whether an address in the text has a secret inside; what `redacted` has put out of sight is none."""
    return any(match["secret"] != HIDDEN for pattern in _PATTERNS for match in pattern.finditer(text))
