"""One run of a study, in a process of its own: trained, then measured. `python -m raystage.studies.one_run CONFIG PARENT [JSON]`."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from raystage.config import ConfigError, load
from raystage.data.progress import no_progress
from raystage.quiet import quiet_environment
from raystage.runtime.driver import Part, train
from raystage.runtime.engine import EngineError
from raystage.runtime.evaluate import Request, evaluate_model
from raystage.runtime.evaluation_record import keep
from raystage.runtime.local import LocalEngine
from raystage.runtime.model_source import find_model
from raystage.runtime.run_folder import write_whole

DONE, FAILED, REFUSED, STOPPED = 0, 1, 2, 3  # exit codes
FINISHED_FILE = "study_finished.yaml"  # holds the configuration that the run was finished under
_POLL_S = 1.0


def main() -> None:
    """Exit code 3 after a stop with a checkpoint, which the same command goes on from; 2 where it could not begin."""
    quiet_environment()
    path, parent = Path(sys.argv[1]), int(sys.argv[2])
    zeroshot = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    config = load(path)
    try:
        engine = LocalEngine(config.runtime)
        threading.Thread(target=_follow_parent, args=(parent, engine.request_stop), daemon=True).start()
        outcome = train(config, lambda: engine, no_progress, print, Part({}, []))
        if not outcome.finished:
            sys.exit(STOPPED)
        if zeroshot:
            request = Request(
                texts=tuple(Path(text) for text in zeroshot["texts"]),
                lambada=Path(zeroshot["lambada"]) if zeroshot["lambada"] else None,
                device="auto" if config.runtime.device == "xla" else config.runtime.device,
            )
            keep(evaluate_model(find_model(str(outcome.folder.path), None, no_progress), request), outcome.folder.path, None)
    except (ConfigError, EngineError) as error:
        print(error, file=sys.stderr)
        sys.exit(FAILED if isinstance(error, EngineError) else REFUSED)
    write_whole(outcome.folder.path / FINISHED_FILE, path.read_text())


def _follow_parent(parent: int, stop: Callable[[], None]) -> None:
    """A run whose study was killed would hold its folder against the next one."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    stop()


if __name__ == "__main__":
    main()
