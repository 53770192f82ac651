import os
import subprocess
import sys
from pathlib import Path

import pytest

from raystage.data.cache import PREFIX, building, remove_leftovers
from tests.config.refusal import message_of


def is_whole(folder: Path) -> bool:
    return (folder / "last").exists()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_finished_folder_appears_under_its_name_alone(tmp_path: Path) -> None:
    with building(tmp_path / "x", is_whole) as temporary:
        (temporary / "last").write_text("a")
        assert not (tmp_path / "x").exists()
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["last"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_one_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def build() -> None:
        with building(tmp_path / "x", is_whole) as temporary:
            (temporary / "last").write_text("a")
            raise error

    with pytest.raises(error):
        build()
    assert names(tmp_path) == []


def test_first_of_two_stays(tmp_path: Path) -> None:
    with building(tmp_path / "x", is_whole) as mine:
        (mine / "last").write_text("mine")
        with building(tmp_path / "x", is_whole) as other:
            (other / "last").write_text("other")
    assert (tmp_path / "x" / "last").read_text() == "other"
    assert names(tmp_path) == ["x"]


def test_damaged_one_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "half").touch()
    with building(tmp_path / "x", is_whole) as temporary:
        (temporary / "last").touch()
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["last"]


KILLED = """
import os, signal, sys
from pathlib import Path
from raystage.data.cache import building
with building(Path(sys.argv[1]) / "x", lambda folder: True) as temporary:
    (temporary / "last").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leftovers_of_the_killed_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, check=False, timeout=60)
    (left,) = names(tmp_path)
    assert left.startswith(PREFIX)
    with building(tmp_path / "y", is_whole) as mine:
        remove_leftovers(tmp_path)
        assert names(tmp_path) == [mine.name]


def test_other_machines_leftovers_stay(tmp_path: Path) -> None:
    other = tmp_path / f"{PREFIX}~elsewhere~{2**22 + 1}~0"
    other.mkdir()
    remove_leftovers(tmp_path)
    assert other.exists()


def test_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def build() -> None:
        with building(tmp_path / "file" / "x", is_whole):
            pass

    assert f"{tmp_path / 'file'}: cannot be written" in message_of(build)
    assert os.listdir(tmp_path) == ["file"]
