"""Trouble with storage as records of metrics.jsonl, from whatever thread meets it."""

import threading
from typing import Any

from raystage.storage.patience import Trouble
from raystage.training.ports import Recorder


class TroubleLog:
    """A recorder that also takes troubles, with the step of the record before; those from before there is one wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recorder: Recorder | None = None
        self._early: list[dict[str, Any]] = []
        self._stamp: dict[str, int] = {}

    def begin(self, recorder: Recorder, step: int, attempt: int) -> "TroubleLog":
        """From now on everything goes to `recorder`."""
        with self._lock:
            self._recorder, self._stamp = recorder, {"step": step, "attempt": attempt}
            early, self._early = self._early, []
        for facts in early:
            self._say(facts)
        return self

    def __call__(self, trouble: Trouble) -> None:
        facts = {"what": trouble.what, "reason": trouble.reason, "lasted_s": round(trouble.lasted_s, 1), "is_over": trouble.is_over}
        self._say({**facts, "text": str(trouble)})

    def note(self, text: str) -> None:
        """Something that was found and does not last."""
        self._say({"what": "checkpoint", "reason": "", "lasted_s": 0.0, "is_over": True, "text": text})

    def metrics(self, records: list[dict[str, Any]]) -> None:
        """Records of training."""
        assert self._recorder is not None
        with self._lock:
            self._stamp["step"] = max(self._stamp["step"], records[-1]["step"])
            self._recorder.metrics(records)

    def decision(self, record: dict[str, Any]) -> None:
        """A decision of training."""
        assert self._recorder is not None
        self._recorder.decision(record)

    def _say(self, facts: dict[str, Any]) -> None:
        with self._lock:
            if self._recorder is None:
                self._early.append(facts)
            else:
                self._recorder.metrics([{"kind": "storage", **self._stamp, **facts}])
