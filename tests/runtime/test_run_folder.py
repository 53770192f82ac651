"""One writer a run, attempts that fence each other, and which keys may change under an old name."""

from pathlib import Path

import pytest

from raystage.config import Config, ConfigError, from_tree
from raystage.runtime.run_folder import RunFolder


def config(tmp_path: Path, *overrides: str) -> Config:
    return from_tree({"name": "a", "storage": str(tmp_path)}, overrides)


def test_only_one_process_trains_a_run(tmp_path: Path) -> None:
    folder = RunFolder.of(config(tmp_path))
    with folder.locked(), pytest.raises(ConfigError, match="another process is training this run"), RunFolder.of(config(tmp_path)).locked():
        pass
    with folder.locked():
        pass


def test_attempts_count_up(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.attempt() == 0
    assert [folder.next_attempt(), folder.next_attempt()] == [1, 2]
    assert RunFolder(tmp_path).attempt() == 2


def test_keys_that_move_no_loss_may_change_and_are_recorded(tmp_path: Path) -> None:
    folder = RunFolder.of(config(tmp_path))
    folder.path.mkdir()
    assert folder.accept(config(tmp_path)) == []
    changes = folder.accept(config(tmp_path, "runtime.workers=4", "training.duration=9 steps"))
    assert changes == ["runtime.workers: 1 -> 4", "training.duration: 2e6 tokens -> 9 steps"]
    assert '"before": 1, "after": 4' in (folder.path / "config_changes.jsonl").read_text()
    assert "workers: 4" in (folder.path / "config.yaml").read_text()


@pytest.mark.parametrize(("override", "before"), [("training.optimizer.lr=0.5", "0.001"), ("model.n_layer=2", "4"), ("seed=1", "1234")])
def test_other_keys_are_refused_with_both_values(tmp_path: Path, override: str, before: str) -> None:
    folder = RunFolder.of(config(tmp_path))
    folder.path.mkdir()
    folder.accept(config(tmp_path))
    key, _, after = override.partition("=")
    with pytest.raises(ConfigError, match=f"{key}={after}: run 'a' began with {before}"):
        folder.accept(config(tmp_path, override))
    assert after not in [line.split()[-1] for line in (folder.path / "config.yaml").read_text().splitlines() if key.split(".")[-1] in line]


def test_a_key_that_is_younger_than_the_run_had_its_default(tmp_path: Path) -> None:
    folder = RunFolder.of(config(tmp_path))
    folder.path.mkdir()
    folder.accept(config(tmp_path))
    path = folder.path / "config.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "precision:" not in line))
    assert folder.accept(config(tmp_path)) == []
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "precision:" not in line))
    with pytest.raises(ConfigError, match=r"training\.precision=bf16: run 'a' began with float32"):
        folder.accept(config(tmp_path, "training.precision=bf16"))
