"""New whole lines of a file that another process appends to, and may replace by a shorter one."""

import logging
import os
from pathlib import Path
from typing import BinaryIO

from raystage.tracking.records import Record, parse_line

_log = logging.getLogger(__name__)


class Tail:
    """Reads a growing JSON-lines file from its beginning; `replacements` counts how often it had to begin anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self.replacements = 0

    def read(self, limit: int) -> list[Record]:
        """Up to `limit` records not returned before; fewer only at the end of the file. Raises OSError."""
        file = self._current()
        records: list[Record] = []
        while file is not None and len(records) < limit:
            position = file.tell()
            line = file.readline()
            if not line.endswith(b"\n"):
                file.seek(position)
                break
            record = parse_line(line)
            if record is not None:
                records.append(record)
            elif line.strip():
                _log.warning("%s: skipped a line that is no JSON object", self._path)
        return records

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _current(self) -> BinaryIO | None:
        try:
            on_disk = os.stat(self._path)
        except FileNotFoundError:
            return self._file
        if self._file is not None and self._is_replaced(self._file, on_disk):
            self.close()
            self.replacements += 1
        if self._file is None:
            self._file = self._path.open("rb")
        return self._file

    def _is_replaced(self, file: BinaryIO, on_disk: os.stat_result) -> bool:
        # the open file keeps its inode number from being given to the new one
        return not os.path.samestat(os.fstat(file.fileno()), on_disk) or on_disk.st_size < file.tell()
