"""Runs whose storage is a URI: they survive the loss of the machine, and a store that fails never stops training before its time."""

import contextlib
import errno
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from raystage.config import Config, ConfigError
from raystage.data.progress import Progress, no_progress
from raystage.report.build import build_report
from raystage.runtime.driver import Outcome, train
from raystage.runtime.engine import EngineError
from raystage.runtime.export import choose_checkpoint, export
from raystage.runtime.local import LocalEngine
from raystage.runtime.model_source import find_model
from raystage.runtime.remote_commands import ask_anywhere
from raystage.runtime.run_folder import RunFolder
from raystage.runtime.view import list_runs, view_checkpoint, view_model, view_records
from raystage.tracking.records import RunRecords, read_records
from raystage.training.mirror import KEEP_UNSENT
from raystage.training.ports import Ask
from tests.data.made_text import made_documents, write_jsonl
from tests.storage.faulty_store import FaultyFileSystem, empty_store, set_faults, stored
from tests.training.made_run import configure, losses

STORE = "faulty://bucket/runs"
SHORT = ["training.duration=40 steps", "pacing.lengths=null", "pacing.widths=null", "pacing.at=[0.4]"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("raystage.storage.patience._FIRST_PAUSE_S", 0.005)
    monkeypatch.setattr("raystage.storage.patience._LONGEST_PAUSE_S", 0.02)
    with empty_store():
        yield


def elsewhere(folder: Path, name: str, machine: str = "one", *overrides: str) -> Config:
    """The short run with its storage at a URI, working in a folder of its own per machine."""
    places = [f"storage={STORE}", f"storage_cache={folder / machine}", f"name={name}"]
    return configure(folder, [*SHORT, *places, *overrides])


class StoppedEngine(LocalEngine):
    """Asks at every boundary, numbered from 1, whether to stop there."""

    def __init__(self, config: Config, at_boundary: Callable[[int], bool]) -> None:
        super().__init__(config.runtime)
        self._at_boundary, self._every_steps = at_boundary, config.pacing.check_every_steps
        self._has_begun, self._n_boundaries = False, 0

    def _asked(self, step: int, position: int) -> Ask | None:
        if not self._has_begun or step % self._every_steps:
            self._has_begun = True
            return None
        self._n_boundaries += 1
        return "stop" if self._at_boundary(self._n_boundaries) else None


def run(
    config: Config,
    at_boundary: Callable[[int], bool] = lambda n: False,
    makes_products: bool = False,
    progress: Progress = no_progress,
) -> Outcome:
    """The driver and its run in this process; model and report, which take seconds, only where asked for."""
    engine = StoppedEngine(config, at_boundary)
    with contextlib.nullcontext() if makes_products else mock.patch("raystage.runtime.wrap_up.wrap_up", return_value=None):
        return train(config, lambda: engine, progress, lambda line: None)


def records(config: Config) -> RunRecords:
    return RunRecords.load(RunFolder.of(config).path)


def decisions(found: RunRecords) -> list[dict[str, Any]]:
    return [{key: value for key, value in d.items() if key != "time_s"} for d in found.decisions]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def alone(folder: Path) -> RunRecords:
    """The same run in a plain folder."""
    config = configure(folder, [*SHORT, "name=alone"])
    run(config)
    return records(config)


def test_a_run_goes_on_bitwise_from_its_storage_alone(folder: Path, alone: RunRecords) -> None:
    first = elsewhere(folder, "moved", "first")
    assert not run(first, lambda n: n == 5).finished
    shutil.rmtree(folder / "first")
    second = elsewhere(folder, "moved", "second")
    told: dict[str, list[tuple[int, int | None]]] = {}

    def progress(label: str, done: int, total: int | None, unit: str = "bytes") -> None:
        told.setdefault(label, []).append((done, total))

    sizes = {path: len(content) for path, content in stored("/moved/").items()}
    assert run(second, makes_products=True, progress=progress).finished
    restored = {label: steps for label, steps in told.items() if label.startswith("fetch ")}
    assert sorted(label.rpartition(" ")[0] for label in restored) == ["fetch", "fetch checkpoint"]
    assert all(steps[0][0] == 0 and steps[-1][0] == steps[-1][1] for steps in restored.values()), restored
    (name,) = (label.rpartition(" ")[2] for label in restored if "checkpoint" in label)
    assert restored[f"fetch checkpoint {name}"][-1][1] == sum(size for path, size in sizes.items() if f"/{name}/" in path)
    assert losses(records(second)) == losses(alone)
    assert decisions(records(second)) == decisions(alone)
    assert {record["attempt"] for record in records(second).train} == {1, 2}
    there = {path.removeprefix("/bucket/runs/moved/") for path in stored("/moved/")}
    assert {"config.yaml", "metrics.jsonl", "decisions.jsonl", "attempt", "model/model.safetensors", "report/index.html"} <= there


def test_the_copy_there_is_what_was_written_here(folder: Path) -> None:
    config = elsewhere(folder, "copied")
    run(config)
    here = RunFolder.of(config).path
    there = stored("/copied/checkpoints/")
    manifests = {Path(path).parent.name for path in there if path.endswith("/manifest.json")}
    assert manifests == {path.name for path in (here / "checkpoints").glob("[0-9]*")}
    for path, content in there.items():
        assert (here / "checkpoints" / Path(path).parent.name / Path(path).name).read_bytes() == content
    assert stored("/copied/metrics.jsonl")["/bucket/runs/copied/metrics.jsonl"] == (here / "metrics.jsonl").read_bytes()


def test_a_store_that_is_away_is_said_and_training_goes_on_and_catches_up(folder: Path, alone: RunRecords) -> None:
    config = elsewhere(folder, "away")

    def goes_away_then_comes_back(n: int) -> bool:
        if n == 2:
            set_faults(away=10**9)
        if n == 7:
            set_faults()
        return False

    assert run(config, goes_away_then_comes_back).finished
    found = records(config)
    assert losses(found) == losses(alone)
    troubles = [record for record in read_records(RunFolder.of(config).path / "metrics.jsonl") if record["kind"] == "storage"]
    assert "no route to the store" in troubles[0]["text"]
    assert troubles[-1]["is_over"]
    assert any(path.endswith("-end/manifest.json") for path in stored("/away/"))


def test_every_third_call_fails_and_nothing_is_lost(folder: Path, alone: RunRecords) -> None:
    config = elsewhere(folder, "shaky")
    set_faults(every=3)
    assert run(config).finished
    shutil.rmtree(folder / "one")
    again = elsewhere(folder, "shaky", "two")
    assert run(again).finished
    assert losses(records(again)) == losses(alone)


@pytest.mark.parametrize("fault", [{"full": True}, {"away": 10**9}])
def test_past_the_limit_the_run_stops_with_one_line_and_a_checkpoint_here(folder: Path, fault: dict[str, Any]) -> None:
    name = f"limit-{next(iter(fault))}"
    config = elsewhere(folder, name, "one", "checkpoint.storage_retry_minutes=0.002")

    def breaks(n: int) -> bool:
        if n == 3:
            set_faults(**fault)
        return False

    with pytest.raises(EngineError, match=rf"(writing|reading|listing) {STORE}/{name}\S* has failed for \d+ s") as caught:
        run(config, breaks)
    assert "\n" not in str(caught.value)
    set_faults()
    assert run(elsewhere(folder, name)).finished


def test_an_end_that_the_store_did_not_take_is_sent_by_the_same_command(folder: Path, alone: RunRecords) -> None:
    config = elsewhere(folder, "unsent", "one", "checkpoint.storage_retry_minutes=0.002")

    def breaks(n: int) -> bool:
        if n == 8:  # the last boundary: what comes now is the end
            set_faults(away=10**9)
        return False

    with pytest.raises(EngineError, match="has failed for"):
        run(config, breaks)
    set_faults()
    assert (RunFolder.of(config).path / "checkpoints" / "00000040-1-end").is_dir()
    assert not stored("-end/")
    assert run(config).finished
    assert stored("-end/manifest.json")
    shutil.rmtree(folder / "one")
    assert run(elsewhere(folder, "unsent", "two")).finished
    assert losses(records(elsewhere(folder, "unsent", "two"))) == losses(alone)


def test_a_full_disk_here_is_waited_for_too(folder: Path, alone: RunRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are copied before they are sent."""
    copy = shutil.copy
    refused: list[Path] = []

    def full(source: Path, target: str) -> Any:
        if Path(source).name == "metrics.jsonl" and len(refused) < 5:
            refused.append(source)
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, target)

    monkeypatch.setattr("raystage.runtime.remote_run.shutil.copy", full)
    config = elsewhere(folder, "full-here")
    assert run(config).finished
    assert len(refused) == 5
    assert losses(records(config)) == losses(alone)


def test_a_checkpoint_whose_upload_was_cut_short_is_passed_over(folder: Path, alone: RunRecords) -> None:
    first = elsewhere(folder, "partial", "first")
    run(first, lambda n: n == 5)
    newest = max(path for path in stored("/partial/checkpoints/") if path.endswith("manifest.json"))
    del FaultyFileSystem.store[newest]
    shutil.rmtree(folder / "first")
    second = elsewhere(folder, "partial", "second")
    run(second)
    assert losses(records(second)) == losses(alone)
    texts = [r["text"] for r in read_records(RunFolder.of(second).path / "metrics.jsonl") if r["kind"] == "storage"]
    assert any(Path(newest).parent.name in text and "cut short" in text for text in texts)


def test_a_damaged_checkpoint_there_is_named_and_the_one_before_is_used(folder: Path, alone: RunRecords) -> None:
    first = elsewhere(folder, "damaged", "first")
    run(first, lambda n: n == 5)
    newest = Path(max(path for path in stored("/damaged/checkpoints/") if path.endswith("manifest.json"))).parent
    FaultyFileSystem.store[str(newest / "model.safetensors")].seek(100)
    FaultyFileSystem.store[str(newest / "model.safetensors")].write(b"\xff" * 16)
    shutil.rmtree(folder / "first")
    second = elsewhere(folder, "damaged", "second")
    run(second)
    assert losses(records(second)) == losses(alone)
    texts = [r["text"] for r in read_records(RunFolder.of(second).path / "metrics.jsonl") if r["kind"] == "storage"]
    assert any(newest.name in text and "model.safetensors" in text for text in texts)


def test_a_second_driver_fences_off_the_first(folder: Path) -> None:
    first, second = elsewhere(folder, "fenced", "first"), elsewhere(folder, "fenced", "second")

    def taken_over(n: int) -> bool:
        if n == 4:
            run(second, lambda n: n == 2)
        return False

    with pytest.raises(EngineError, match="another attempt at run 'fenced' has taken over"):
        run(first, taken_over)


def test_a_stale_folder_takes_up_what_was_done_elsewhere(folder: Path, alone: RunRecords) -> None:
    here, there = elsewhere(folder, "back", "here"), elsewhere(folder, "back", "there")
    run(here, lambda n: n == 3)
    run(there, lambda n: n == 3)
    assert run(here).finished
    assert losses(records(here)) == losses(alone)
    assert {record["attempt"] for record in records(here).train} == {1, 2, 3}


def test_a_stop_asked_for_there_reaches_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raystage.training.mirror._PERIOD_S", 0.01)
    config = elsewhere(folder, "asked", "one", "training.duration=4000 steps")
    said: list[str] = []

    def asks(n: int) -> bool:
        if n == 2:
            said.append(ask_anywhere(STORE, "stop", "asked", None))
        return n > 700

    assert not run(config, asks).finished
    assert "stop asked of asked" in said[0]
    assert [d["trigger"] for d in records(config).decisions if d["kind"] == "stop"] == ["manual"]
    assert not stored("/asked/asked/")


def test_those_who_only_look_work_with_the_uri(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raystage.runtime.view._VIEWED", str(tmp_path / "viewed"))
    run(elsewhere(folder, "viewed"), makes_products=True)
    shutil.rmtree(folder / "one")
    table = list_runs(STORE)
    assert [str(cell) for cell in table.columns[0].cells][:2] == ["viewed", "  00000016-1-before-1 pinned"]
    assert next(iter(table.columns[1].cells)) == "100%"
    page = build_report([view_records(f"{STORE}/viewed")], tmp_path / "report")
    assert "viewed" in page.read_text()
    run_dir = view_checkpoint(f"{STORE}/viewed", None)
    assert choose_checkpoint(run_dir, None).manifest.counters.step == 40
    run_dir = view_checkpoint(f"{STORE}/viewed", "00000016-1-before-1")
    assert choose_checkpoint(run_dir, "00000016-1-before-1").manifest.counters.step == 16
    assert (view_model(f"{STORE}/viewed") / "model.safetensors").is_file()
    for look in (view_records, view_model):
        with pytest.raises(ConfigError, match=r"no (run|model) there"):
            look(f"{STORE}/nothing")
    with pytest.raises(ConfigError, match=r"00000099-1-1: no such checkpoint; faulty:\S+/viewed has 00000016-1-before-1, "):
        view_checkpoint(f"{STORE}/viewed", "00000099-1-1")
    with pytest.raises(ConfigError, match="this run is complete"):
        ask_anywhere(STORE, "stop", "viewed", None)
    with pytest.raises(ConfigError, match="no such run"):
        ask_anywhere(STORE, "stop", "nothing", None)


def test_checkpoints_that_are_not_there_yet_stay_here_up_to_a_bound(folder: Path) -> None:
    keys = ["every_steps=5", "keep_last=1", "keep_best=0", "storage_retry_minutes=0.05"]
    config = elsewhere(folder, "kept", "one", *(f"checkpoint.{key}" for key in keys))
    unpinned: list[int] = []

    def looks(n: int) -> bool:
        if n == 2:
            set_faults(away=10**9)
        names = [path.name for path in (RunFolder.of(config).path / "checkpoints").glob("[0-9]*") if "before" not in path.name]
        unpinned.append(len(names))
        return False

    with pytest.raises(EngineError):
        run(config, looks)
    assert 2 <= max(unpinned) <= KEEP_UNSENT + 2


def test_a_missing_package_is_one_line(tmp_path: Path) -> None:
    config = configure(tmp_path, ["storage=s3://bucket/runs", f"storage_cache={tmp_path}"])
    with pytest.raises(ConfigError, match=r"storage=s3://bucket/runs/small: s3:// needs .*pip install s3fs"):
        run(config)


def test_those_who_look_see_what_is_there_now(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what lay there when they looked before: the run was deleted, and trained anew for less."""
    monkeypatch.setattr("raystage.runtime.view._VIEWED", str(tmp_path / "viewed"))
    uri = f"{STORE}/anew"
    run(elsewhere(folder, "anew"), makes_products=True)
    assert choose_checkpoint(view_checkpoint(uri, None), None).manifest.counters.step == 40
    assert (view_model(uri) / "model.safetensors").is_file()
    assert (view_records(uri) / "report" / "index.html").is_file()
    FaultyFileSystem().rm("/bucket/runs/anew", recursive=True)
    run(elsewhere(folder, "anew", "two", "seed=5"), lambda n: n == 3)
    newest = choose_checkpoint(view_checkpoint(uri, None), None)
    assert (newest.manifest.counters.step, newest.manifest.seed) == (15, 5)
    with pytest.raises(ConfigError, match="no model there"):
        view_model(uri)
    assert not list((view_records(uri) / "report").glob("*"))


def test_of_a_damaged_checkpoint_the_one_before_is_looked_at(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raystage.runtime.view._VIEWED", str(tmp_path / "viewed"))
    run(elsewhere(folder, "hurt"))
    ((path, content),) = stored("-end/model.safetensors").items()
    FaultyFileSystem().pipe_file(path, content[:-1] + bytes([content[-1] ^ 1]))
    assert choose_checkpoint(view_checkpoint(f"{STORE}/hurt", None), None).folder.name == "00000040-1-1"
    with pytest.raises(ConfigError, match=r"is damaged .* take another one"):
        view_checkpoint(f"{STORE}/hurt", Path(path).parent.name)


def test_what_is_retired_while_it_is_looked_at_is_no_error(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raystage.runtime.view._VIEWED", str(tmp_path / "viewed"))
    run(elsewhere(folder, "moving"))
    info = FaultyFileSystem.info

    def gone(of: str, store: FaultyFileSystem, path: str, **kwargs: Any) -> Any:
        if path.endswith(f"-end/{of}"):
            raise FileNotFoundError(path)
        return info(store, path, **kwargs)

    for of in ("manifest.json", "model.safetensors"):
        with mock.patch.object(FaultyFileSystem, "info", functools.partialmethod(functools.partial(gone, of))):
            assert choose_checkpoint(view_checkpoint(f"{STORE}/moving", None), None).folder.name == "00000040-1-1"
            assert list_runs(STORE).row_count > 0


def test_a_model_is_exported_without_its_corpus(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    monkeypatch.setattr("raystage.runtime.view._VIEWED", str(tmp_path / "viewed"))
    config = elsewhere(folder, "far", "one", f"data.cache_dir={tmp_path}/data")
    run(config)
    shutil.rmtree(tmp_path / "data")
    monkeypatch.setattr("raystage.runtime.export.prepare", mock.Mock(side_effect=AssertionError("the corpus is not needed")))
    found = find_model(f"{STORE}/far")
    assert found.stored is not None
    target = export(found.stored, found.tokenizer(), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(target)("the loss").input_ids


def test_a_run_goes_on_with_its_text_after_that_has_changed(tmp_path: Path) -> None:
    text = write_jsonl(tmp_path / "text.jsonl", made_documents(400))
    places = [f"data.sources=[{{kind: jsonl, path: {text}}}]", f"data.cache_dir={tmp_path}/data"]
    config = elsewhere(tmp_path, "kept-text", "one", *places)
    said: list[str] = []
    engine = StoppedEngine(config, lambda n: n == 3)
    with mock.patch("raystage.runtime.wrap_up.wrap_up", return_value=None):
        assert not train(config, lambda: engine, no_progress, said.append).finished
        write_jsonl(text, made_documents(300))
        assert train(config, lambda: LocalEngine(config.runtime), no_progress, said.append).finished
    assert [line for line in said if line.startswith("the text has changed since the run began")]
    assert records(config).train[-1]["step"] == 40
