"""What commands write: their lines, and the one line of an error."""

import errno
import os
import sys
from typing import NoReturn

import rich.console

from raystage.config.names import shortened
from raystage.config.redact import redacted

terminal = rich.console.Console(highlight=False)
_REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place that you may read and write, or change its permissions"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space: the same command goes on"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "a folder and a file are mixed up: name another place"),
    errno.ENAMETOOLONG: "name a shorter one",
}


def say(line: str) -> None:
    """A line, without secrets of addresses."""
    terminal.print(redacted(line), markup=False, soft_wrap=True)


def fail(line: str, code: int) -> NoReturn:
    """Ends the process with the line: 2 for a mistake of the user, 1 for what failed."""
    print(f"raystage: {redacted(line)}", file=sys.stderr)
    sys.exit(code)


def trouble_of_system(error: OSError) -> str | None:
    """The line for a disk that is full, a folder that may not be read, and the like; None for what should not have happened."""
    if error.errno not in _REMEDIES:
        return None
    return f"{shortened(str(error.filename or 'a file'))}: {os.strerror(error.errno).lower()}; {_REMEDIES[error.errno]}"
