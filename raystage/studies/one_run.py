"""One run of a study, in a process of its own: trained, then measured. `python -m raystage.studies.one_run CONFIG PARENT ZEROSHOT`."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raystage.config import Config, ConfigError, load
from raystage.data.progress import no_progress
from raystage.quiet import quiet_environment
from raystage.runtime.driver import Part, train
from raystage.runtime.engine import EngineError
from raystage.runtime.evaluate import Request, evaluate_model
from raystage.runtime.evaluation_record import keep
from raystage.runtime.local import LocalEngine
from raystage.runtime.model_source import find_model
from raystage.runtime.run_folder import RunFolder, write_whole
from raystage.training.errors import TrainingError

ENDED, REFUSED, STOPPED = 0, 2, 3  # exit codes
ENDED_FILE = "study_ended.json"  # why it diverged, or null; and what was measured of its model
_POLL_S = 1.0


def main() -> None:
    """Exit code 0 for a run that has ended, even if it diverged; 3 after a stop with a checkpoint; 2 where something else is in the way."""
    quiet_environment()
    config, parent, zeroshot = load(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    try:
        diverged = _train(config, parent)
        if diverged is None:
            _measure(config, zeroshot)
    except (ConfigError, EngineError, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
    write_whole(RunFolder.of(config).path / ENDED_FILE, json.dumps({"diverged": diverged, "measured": zeroshot}))


def _train(config: Config, parent: int) -> str | None:
    """Why it diverged; None of a run that went to its end."""
    engine = LocalEngine(config.runtime)
    threading.Thread(target=_follow_parent, args=(parent, engine.request_stop), daemon=True).start()
    try:
        if not train(config, lambda: engine, no_progress, print, Part({}, [])).finished:
            sys.exit(STOPPED)
    except EngineError as error:
        if not isinstance(error.__cause__, TrainingError):
            raise  # no trouble of training's own
        print(error, file=sys.stderr)
        return str(error)
    return None


def _measure(config: Config, zeroshot: dict[str, Any]) -> None:
    if not (zeroshot["texts"] or zeroshot["lambada"]):
        return
    request = Request(
        texts=tuple(Path(text) for text in zeroshot["texts"]),
        lambada=Path(zeroshot["lambada"]) if zeroshot["lambada"] else None,
        device=config.runtime.device,
    )
    folder = RunFolder.of(config).path
    keep(evaluate_model(find_model(str(folder), None, no_progress), request), folder, None)


def _follow_parent(parent: int, stop: Callable[[], None]) -> None:
    """A run whose study was killed would hold its folder against the next one."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    stop()


if __name__ == "__main__":
    main()
