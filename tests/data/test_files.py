from pathlib import Path

import pytest

from raystage.data.files import file_sha256, matching_files, open_bytes, open_text
from tests.config.refusal import message_of
from tests.data.made_text import SUFFIXES, packed

TEXT = "first line\r\nsecond: naïve 🚂\n\n\tlast without an end" * 5000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_content_is_the_text_whatever_the_packing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(packed(TEXT.encode(), suffix))
    pieces: list[int] = []
    with open_text(path, pieces.append) as text:
        assert "".join(iter(lambda: text.read(1000), "")) == TEXT
    assert sum(pieces) == path.stat().st_size


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_several_archives_in_one_file_are_all_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(packed(b"one\n", suffix) + packed(b"two\n", suffix))
    with open_bytes(path) as content:
        assert list(content) == [b"one\n", b"two\n"]


# without its optional checksum, .zst cannot show a changed byte
DAMAGES = [(suffix, damage) for suffix in SUFFIXES[1:] for damage in ("truncated", "no archive", "overwritten")]
DAMAGES.remove((".zst", "overwritten"))


@pytest.mark.parametrize(("suffix", "damage"), DAMAGES)
def test_damaged_archive_is_one_line(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    good = packed(TEXT.encode(), suffix)
    middle = len(good) // 2
    bad = {"truncated": good[:-20], "no archive": TEXT.encode(), "overwritten": good[:middle] + b"\xff" * 12 + good[middle + 12 :]}
    path.write_bytes(bad[damage])

    def read() -> None:
        with open_bytes(path) as content:
            content.read()

    line = message_of(read)
    assert str(path) in line
    assert "damaged archive" in line
    assert "again" in line


def test_text_that_is_no_utf8_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("café".encode("latin-1"))

    def read() -> None:
        with open_text(path) as text:
            text.read()

    assert f"{path}: not UTF-8" in message_of(read)


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    with open_text(tmp_path / "a.txt") as text:
        assert text.read() == "hello"


def test_unreadable_file_is_one_line(tmp_path: Path) -> None:
    dangling = tmp_path / "dangling.txt"
    dangling.symlink_to(tmp_path / "nowhere")

    def read() -> None:
        (path,) = matching_files(str(tmp_path / "*.txt"))
        with open_bytes(path):
            pass

    assert f"{dangling}: cannot be read (No such file or directory)" in message_of(read)
    assert f"{dangling}: cannot be read" in message_of(lambda: file_sha256(dangling))


def test_glob_is_sorted_and_leaves_folders_out(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.txt", "a.txt", "b/c.txt/inner.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert matching_files(f"{tmp_path}/**/*.txt") == [tmp_path / "a.txt", tmp_path / "b/1.txt", tmp_path / "b/2.txt"]


def test_name_with_brackets_is_the_file_if_it_exists(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").touch()
    assert matching_files(f"{tmp_path}/a[1].txt") == [tmp_path / "a[1].txt"]


def test_no_match_and_folder_are_one_line(tmp_path: Path) -> None:
    assert "no file there" in message_of(lambda: matching_files(f"{tmp_path}/*.txt"))
    assert f"{tmp_path}/*.jsonl" in message_of(lambda: matching_files(str(tmp_path)))
