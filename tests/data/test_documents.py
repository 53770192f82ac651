import json
import sysconfig
from pathlib import Path

import pytest

from raystage.config.schema import Source
from raystage.data.documents import documents
from raystage.data.text_files import DOCUMENT_CHARACTERS, LONGEST_CHARACTERS, WHOLE_FILE_CHARACTERS
from tests.config.refusal import message_of
from tests.data.made_text import SUFFIXES, made_documents, packed, write_jsonl


def read(kind: str, path: Path | str, **settings: object) -> list[str]:
    return list(documents(Source(kind=kind, path=str(path), **settings)))  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_jsonl(tmp_path: Path, suffix: str) -> None:
    texts = [*made_documents(20), "naïve 🚂\r\n\ttabs\u2028and separators"]
    assert read("jsonl", write_jsonl(tmp_path / f"a.jsonl{suffix}", texts)) == texts


def test_jsonl_glob_key_limit_and_white_space(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "2.jsonl", ["c", " \n", "", "d"], key="body")
    write_jsonl(tmp_path / "1.jsonl.gz", ["a", "b"], key="body")
    (tmp_path / "3.jsonl").write_text('\ufeff{"body": "e"}\n\n{"body": "f"}', encoding="utf-8")
    assert read("jsonl", tmp_path / "*.jsonl*", text_key="body") == ["a", "b", "c", "d", "e", "f"]
    assert read("jsonl", tmp_path / "*.jsonl*", text_key="body", max_documents=3) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"text": "a"', "not JSON"),
        ("text", "not JSON"),
        ('["a"]', "holds list, must be an object"),
        ('{"body": "a", "id": 1}', "no field 'text', it has 'body', 'id'; set text_key"),
        ("{}", "no field 'text', it has none"),
        ('{"text": 3}', "holds int, must be text"),
        ('{"text": null}', "holds NoneType, must be text"),
        ('{"text": "\\ud83d"}', "half a surrogate pair"),
    ],
)
def test_bad_jsonl_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "fine"}) + "\n\n" + line + "\n", encoding="utf-8")
    message = message_of(lambda: read("jsonl", path))
    assert message.startswith(f"{path} line 3: ")
    assert complaint in message


def test_jsonl_line_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "caf\xe9"}\n')
    assert f"{path} line 1: not JSON" in message_of(lambda: read("jsonl", path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_many_text_files_are_a_document_each(tmp_path: Path, suffix: str) -> None:
    texts = [text + "\n\n" * 10 + "end\r\n" for text in made_documents(4, n_words=3000)]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt{suffix}").write_bytes(packed(text.encode(), suffix))
    assert read("text", tmp_path / f"*.txt{suffix}") == texts


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_file_alone_is_cut_at_blank_lines(tmp_path: Path, suffix: str) -> None:
    paragraphs = [text.strip() + "\r\n\r\n" for text in made_documents(100, n_words=150)]
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(packed("".join(paragraphs).encode(), suffix))
    texts = read("text", path)
    assert "".join(texts) == "".join(paragraphs)
    assert len(texts) > 10
    assert all(len(text) >= DOCUMENT_CHARACTERS and text.endswith("\r\n\r\n") for text in texts[:-1])
    assert max(map(len, texts)) < LONGEST_CHARACTERS


def test_text_without_blank_lines_or_without_lines_is_cut_all_the_same(tmp_path: Path) -> None:
    lines, one_line = "a line of words\n" * 5000, "words " * 20000
    (tmp_path / "lines.txt").write_text(lines)
    (tmp_path / "one.txt").write_text(one_line)
    by_line, by_length = read("text", tmp_path / "lines.txt"), read("text", tmp_path / "one.txt")
    assert "".join(by_line) == lines
    assert all(text.endswith("words\n") for text in by_line)
    assert "".join(by_length) == one_line
    assert max(map(len, by_line + by_length)) < 2 * LONGEST_CHARACTERS


def test_large_file_among_many_is_cut_and_nothing_is_lost(tmp_path: Path) -> None:
    # the limit falls into a paragraph, with an odd line separator just before it
    large = ("x" * 70 + "\u2028\n") * (WHOLE_FILE_CHARACTERS // 72 + 50) + "tail"
    (tmp_path / "a.txt").write_text(large, encoding="utf-8", newline="")
    (tmp_path / "b.txt").write_text("small")
    texts = read("text", tmp_path / "*.txt")
    assert "".join(texts[:-1]) == large
    assert texts[-1] == "small"
    assert len(texts) > 50


def test_large_file_among_many_is_cut_between_lines(tmp_path: Path) -> None:
    # the 72nd line reaches over the first million characters, where its document is long enough to end
    (tmp_path / "a.txt").write_text(("x" * 13_999 + "\n") * 80)
    (tmp_path / "b.txt").write_text("small\n")
    assert all(text.endswith("\n") for text in read("text", tmp_path / "*.txt"))


def test_source_without_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n\n")
    (tmp_path / "b.jsonl").touch()
    assert f"{tmp_path}/a.txt: holds no text" in message_of(lambda: read("text", tmp_path / "a.txt"))
    assert f"{tmp_path}/b.jsonl: holds no text" in message_of(lambda: read("jsonl", tmp_path / "b.jsonl"))


def test_stdlib_is_the_library_without_tests_and_packages() -> None:
    texts = list(documents(Source(kind="stdlib")))
    folder = Path(sysconfig.get_path("stdlib"))
    assert 300 < len(texts) < 2000
    assert (folder / "argparse.py").read_text(encoding="utf-8") in texts
    assert (folder / "json/decoder.py").read_text(encoding="utf-8") in texts
    assert Path(pytest.__file__).read_text(encoding="utf-8") not in texts


def made_library(folder: Path) -> None:
    wanted = {"b.py": "b = 1\n", "a/x.py": "x = 1\n", "a.py": "naïve = 1\n"}
    others = {
        "site-packages/p.py": "p",
        "dist-packages/p.py": "p",
        "test/t.py": "t",
        "a/tests/t.py": "t",
        "idlelib/i.py": "i",
        "n.txt": "n",
    }
    for name, text in (wanted | others).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "latin.py").write_bytes(b"# caf\xe9\n")


def test_stdlib_order_and_what_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the library of a virtual environment's Python may itself lie below such a folder
    library = tmp_path / "tests" / "python3"
    made_library(library)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))
    assert list(documents(Source(kind="stdlib"))) == ["naïve = 1\n", "x = 1\n", "b = 1\n"]


def test_python_without_sources_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "no Python sources" in message_of(lambda: list(documents(Source(kind="stdlib"))))
