"""Feeds what training writes into its run folder to sinks, from threads of the driver: training never waits for a sink.

Every sink has its own thread and its own place in the files, so a slow one holds up no other, and an outage needs no buffer:
the run folder is the buffer.

No record reaches a sink twice. While a file only grows, the place in it says what is new. After a crash rank 0 replaces the
files by ones that end at the restored checkpoint, then trains the lost steps again. Then a record is new if its step is past
the highest one delivered of its kind; a `start` if its attempt is; a decision if none with the same content was delivered
(a replayed decision is the same one; one that came out otherwise replaces the earlier under its decision_id).
"""

import json
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from raystage.tracking.records import DECISIONS_FILE, METRICS_FILE, Record
from raystage.tracking.sink import Sink, SinkError
from raystage.tracking.tail import Tail

_log = logging.getLogger(__name__)
_CHUNK_RECORDS = 2000
_MAX_BACKOFF_S = 60.0
_STOPPING_RETRY_S = 0.5


class Follower:
    """Follows the two record files of one run from their beginning."""

    def __init__(self, run_dir: str | Path, sinks: Sequence[Sink], poll_interval_s: float = 1.0) -> None:
        self._feeds = [_Feed(Path(run_dir), sink, poll_interval_s) for sink in sinks]

    def start(self) -> None:
        for feed in self._feeds:
            feed.start()

    def stop(self, timeout_s: float = 10.0) -> dict[str, int]:
        """Delivers what is in the files, for at most `timeout_s`. Returns the records that could not be delivered, by sink."""
        deadline_s = time.monotonic() + timeout_s
        for feed in self._feeds:
            feed.stop_by(deadline_s)
        for feed in self._feeds:
            feed.join(max(0.0, deadline_s - time.monotonic()) + 0.1)
        left = {feed.sink.name: feed.count_left() for feed in self._feeds}
        for name, count in left.items():
            if count:
                _log.warning(
                    "%s: %d records not delivered; they are safe in the run folder, the run's next start delivers them", name, count
                )
        return left


def deliver(run_dir: str | Path, sink: Sink) -> None:
    """Everything in the files, here and now. Raises SinkError, OSError."""
    feed = _Feed(Path(run_dir), sink, 0.0)
    while feed.offer():
        pass


class _Feed(threading.Thread):
    """One sink: read, offer, wait."""

    def __init__(self, run_dir: Path, sink: Sink, poll_interval_s: float) -> None:
        super().__init__(name=f"follow-{sink.name}", daemon=True)
        self.sink = sink
        self._metrics = _FreshRecords(run_dir / METRICS_FILE)
        self._decisions = _FreshDecisions(run_dir / DECISIONS_FILE)
        self._poll_interval_s = poll_interval_s
        self._backoff_s = 0.0
        self._pending: tuple[list[Record], list[Record]] = ([], [])
        self._stopping = threading.Event()
        self._deadline_s = float("inf")

    def stop_by(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._stopping.set()

    def run(self) -> None:
        done = False
        while not done:
            # asked before the files are read: what was written before the stop is then delivered
            stopping = self._stopping.is_set()
            delivered = self._deliver_all()
            done = stopping and (delivered or time.monotonic() >= self._deadline_s)
            if not done and stopping:
                time.sleep(min(_STOPPING_RETRY_S, max(0.0, self._deadline_s - time.monotonic())))
            elif not done:
                self._stopping.wait(self._backoff_s or self._poll_interval_s)

    def count_left(self) -> int:
        """Records that the sink has not taken; all that it was last offered while it is still busy with them."""
        left = sum(len(records) for records in self._pending)
        if self.is_alive():
            return left
        left += len(self._metrics.read(limit=10**9)) + len(self._decisions.read(limit=10**9))
        self._metrics.close()
        self._decisions.close()
        return left

    def _deliver_all(self) -> bool:
        """True when the sink has everything that is in the files."""
        try:
            while self.offer():
                pass
        except (SinkError, OSError) as error:
            self._fail(error)
            return False
        if self._backoff_s:
            _log.warning("%s: takes records again, none were lost", self.sink.name)
        self._backoff_s = 0.0
        return True

    def offer(self) -> bool:
        """Delivers the next records. False where there are none."""
        if not any(self._pending):
            self._pending = (self._metrics.read(_CHUNK_RECORDS), self._decisions.read(_CHUNK_RECORDS))
        if not any(self._pending):
            return False
        self.sink.consume(*self._pending)
        self._pending = ([], [])
        return True

    def _fail(self, error: Exception) -> None:
        if not self._backoff_s:
            _log.warning("%s: %s; training goes on, records wait in the run folder and are sent later", self.sink.name, error)
        self._backoff_s = min(_MAX_BACKOFF_S, 2 * self._backoff_s or max(1.0, self._poll_interval_s))


class _FreshRecords:
    """New records of metrics.jsonl, none twice."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self._replacements = 0
        self._highest: dict[str, int] = {}
        self._floor: dict[str, int] = {}

    def read(self, limit: int) -> list[Record]:
        """Up to `limit` of them; none only when there are none."""
        fresh: list[Record] = []
        while not fresh and (records := self._tail.read(limit)):
            fresh = self._not_delivered(records)
        return fresh

    def _not_delivered(self, records: list[Record]) -> list[Record]:
        if self._tail.replacements > self._replacements:
            self._replacements = self._tail.replacements
            self._floor = dict(self._highest)
        fresh = [record for record in records if _place(record) > self._floor.get(_kind(record), -1)]
        for record in fresh:
            self._highest[_kind(record)] = max(_place(record), self._highest.get(_kind(record), -1))
        return fresh

    def close(self) -> None:
        self._tail.close()


class _FreshDecisions:
    """New records of decisions.jsonl, none twice."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self._delivered: set[str] = set()

    def read(self, limit: int) -> list[Record]:
        fresh = []
        for record in self._tail.read(limit):
            content = json.dumps(record, sort_keys=True)
            if content not in self._delivered:
                self._delivered.add(content)
                fresh.append(record)
        return fresh

    def close(self) -> None:
        self._tail.close()


def _kind(record: Record) -> str:
    return str(record.get("kind"))


def _place(record: Record) -> int:
    return int(record["attempt"] if record.get("kind") == "start" else record["step"])
