"""Whether every machine may write to a folder or URI, and all see the same one: each leaves a word there, and reads all others'."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from raystage.config import ConfigError
from raystage.runtime.doctor_facts import PlaceFacts
from raystage.runtime.doctor_nodes import Nodes
from raystage.storage.address import is_uri
from raystage.storage.faults import StorageError
from raystage.storage.patience import Patience
from raystage.storage.remote import PARTIAL, RemoteFolder


def try_place(nodes: Nodes, place: str) -> PlaceFacts:
    """`place`: an absolute path or a URI. Nothing is left behind, folders made for it neither."""
    token, made = secrets.token_hex(8), dict[str, list[str]]()
    try:
        wrote = nodes.each(_write, place, token, named=True)
        made = {name: folders for name, (folders, _) in wrote.items()}
        writers = [name for name, (_, trouble) in wrote.items() if trouble is None]
        read = nodes.each(_read, place, token, writers)
    finally:
        nodes.each(_remove, place, token, nodes.names)
        nodes.each(_remove_folders, made, named=True)
    unread = tuple((reader, writer) for reader, missing in read.items() for writer in missing)
    return PlaceFacts({name: trouble for name, (_, trouble) in wrote.items() if trouble is not None}, unread)


def _write(name: str, place: str, token: str) -> tuple[list[str], str | None]:
    """Folders that had to be made, and why nothing could be written."""
    path = Path(place)
    made = [] if is_uri(place) else [str(folder) for folder in (path, *path.parents) if not folder.exists()]
    try:
        _open(place).write(_file(token, name), _word(token, name))
    except (StorageError, ConfigError) as error:
        return made, str(error)
    return made, None


def _read(place: str, token: str, writers: Sequence[str]) -> list[str]:
    """Those whose word is not there."""
    try:
        return [writer for writer in writers if _open(place).read(_file(token, writer)) != _word(token, writer)]
    except (StorageError, ConfigError):
        return list(writers)


def _remove(place: str, token: str, names: Sequence[str]) -> None:
    """All of them: a machine may be silent by now."""
    try:
        _open(place).delete(f"{_file(token, name)}{ending}" for name in names for ending in ("", PARTIAL))
    except (StorageError, ConfigError):
        return  # where nothing could be written


def _remove_folders(name: str, made: Mapping[str, Sequence[str]]) -> None:
    """Those that this machine has made, once all files in them are gone."""
    for folder in made.get(name, ()):
        try:
            Path(folder).rmdir()
        except OSError:
            continue


def _open(place: str) -> RemoteFolder:
    return RemoteFolder.open(place, "storage", Patience(0.0))


def _file(token: str, name: str) -> str:
    return f".raystage-doctor-{token}-{name}"


def _word(token: str, name: str) -> bytes:
    return f"{token} {name}".encode()
