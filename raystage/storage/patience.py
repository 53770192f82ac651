"""Trying again: with growing pauses, within the user's limit, and saying so now and then."""

import dataclasses
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from raystage.storage.faults import StorageError, store_faults

Result = TypeVar("Result")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_SAY_EVERY_S = 60.0


@dataclasses.dataclass(frozen=True)
class Trouble:
    """`what` has failed for `lasted_s`, the last time with `reason`; `is_over`: it works again."""

    what: str
    reason: str
    lasted_s: float
    is_over: bool = False

    def __str__(self) -> str:
        if self.is_over:
            return f"storage: {self.what} works again, after {self.lasted_s:.0f} s"
        since = f" for {self.lasted_s:.0f} s" if self.lasted_s >= 1 else ""
        return f"storage: {self.what} fails{since} ({self.reason}); trying again"


Say = Callable[[Trouble], None]


def say_nothing(trouble: Trouble) -> None:
    """Of someone who does not want to know."""


class Patience:
    """Calls that are repeated until they succeed or have failed for `limit_s` seconds.

    The first failure is said at once, then one a minute, and the end of the trouble. Pauses double from half a second to 30 s,
    each by chance between half and all of that, so that many machines do not come back at once.
    """

    def __init__(self, limit_s: float, say: Say = say_nothing) -> None:
        self.limit_s, self._say = limit_s, say
        self._troubled = 0
        self._over = threading.Event()

    @property
    def is_tried(self) -> bool:
        """Whether some call has failed and not succeeded yet."""
        return self._troubled > 0

    def end(self) -> None:
        """No more patience: what fails from now on, or is waiting to be tried again, fails for good."""
        self._over.set()

    def call(self, what: str, operation: Callable[[], Result], also: tuple[type[Exception], ...] = ()) -> Result:
        """The operation's result. Raises StorageError past the limit; `also`: what else counts as the store's fault."""
        began_s: float | None = None
        said_s, pause_s = 0.0, _FIRST_PAUSE_S
        try:
            while True:
                try:
                    result = operation()
                except (*store_faults(), *also) as error:
                    now_s, reason = time.monotonic(), _one_line(error)
                    if began_s is None:
                        began_s, said_s = now_s, now_s - _SAY_EVERY_S
                        self._troubled += 1
                    if now_s - said_s >= _SAY_EVERY_S:
                        said_s = now_s
                        self._say(Trouble(what, reason, now_s - began_s))
                    left_s = self.limit_s - (now_s - began_s)
                    if isinstance(error, StorageError) or left_s <= 0 or self._over.is_set():
                        raise StorageError(f"{what} has failed for {now_s - began_s:.0f} s ({reason})") from error
                    self._over.wait(min(left_s, pause_s * random.uniform(0.5, 1.0)))  # nosec B311  # a pause
                    pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
                    continue
                if began_s is not None:
                    self._say(Trouble(what, "", time.monotonic() - began_s, is_over=True))
                return result
        finally:
            if began_s is not None:
                self._troubled -= 1


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
