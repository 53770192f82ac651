"""commands.jsonl of a run folder: decisions by hand, written by `raystage runs`, read by rank 0 at its boundaries."""

import json
import os
import time
from pathlib import Path

from raystage.config import ConfigError
from raystage.config.names import check_name
from raystage.tracking.records import parse_line
from raystage.training.by_hand import WANTED
from raystage.training.checkpoint import CheckpointStore
from raystage.training.ports import Command

COMMANDS_FILE = "commands.jsonl"


def check_wish(action: str, name: str | None, what: str | None) -> str:
    """The run's name. Raises ConfigError for a wish that no run can fulfil."""
    if name is None:
        raise ConfigError(f"raystage runs {action}: of which run? Give its name; 'raystage runs' lists them")
    if what is not None and what not in WANTED.get(action, ()):
        takes = " or ".join(WANTED[action]) if action in WANTED else "no --what"
        raise ConfigError(f"--what={what}: {action} takes {takes}")
    return check_name(name, "run")


def command_line(action: str, what: str | None, **more: object) -> dict[str, object]:
    """A line that asks for something now."""
    return {**more, "action": action, "what": what, "asked_at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}


def ask(storage: Path, action: str, name: str | None, what: str | None) -> str:
    """Adds a command to a run's file; returns a line that says so. Raises ConfigError for a run or a wish that does not exist."""
    name = check_wish(action, name, what)
    folder = storage / name
    if CheckpointStore(folder).has_end():
        raise ConfigError(f"{folder}: this run is complete; nothing there is left to decide")
    number = CommandsFile(folder).add(action, what)
    return f"{action} asked of {name} (command {number}): it takes effect at the run's next check, or when the run goes on"


class CommandsFile:
    """Lines only ever get added: a command by the user, or the step that rank 0 gave to one."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / COMMANDS_FILE
        self._size_bytes = -1
        self._commands: list[Command] = []

    def all(self) -> list[Command]:
        """Every command in order. Reads the file only when it has grown: this is asked at every boundary."""
        try:
            size_bytes = self._path.stat().st_size
        except FileNotFoundError:
            return []
        except OSError:
            return self._commands  # storage is away for the moment
        if size_bytes != self._size_bytes:
            self._size_bytes, self._commands = size_bytes, _read(self._path)
        return self._commands

    def add(self, action: str, what: str | None) -> int:
        """Appends a command; returns its number. Raises ConfigError where there is no such run."""
        if not self._path.parent.is_dir():
            raise ConfigError(f"{self._path.parent}: no such run folder; 'raystage runs' lists them")
        command_id = len(self.all()) + 1
        self._append(command_line(action, what, command_id=command_id))
        return command_id

    def take_in(self, line: bytes, asked_as: str) -> None:
        """Appends a command that was asked for elsewhere, once."""
        asked = parse_line(line) or {}
        known = self._path.read_bytes().split(b"\n") if self._path.is_file() else []
        if "action" in asked and not any((parse_line(each) or {}).get("asked_as") == asked_as for each in known):
            self._append({"command_id": len(self.all()) + 1, **asked, "asked_as": asked_as})

    def assign(self, command_id: int, effective_step: int) -> None:
        """The command takes effect with this step, in this attempt and in every later one that comes by it again."""
        self._append({"command_id": command_id, "effective_step": effective_step})

    def _append(self, line: dict[str, object]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path) -> list[Command]:
    commands: dict[int, Command] = {}
    steps: dict[int, int] = {}
    for raw in path.read_bytes().split(b"\n"):
        line = parse_line(raw) or {}
        if "action" in line:
            number = len(commands) + 1  # two people may have asked at once
            commands[number] = Command(number, line["action"], line["what"])
        elif "effective_step" in line:
            steps[line["command_id"]] = line["effective_step"]
    return [Command(c.command_id, c.action, c.what, steps.get(c.command_id)) for c in commands.values()]
