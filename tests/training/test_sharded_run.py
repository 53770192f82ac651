"""FSDP2 on gloo ranks: the losses of DDP and of one rank, through growth; shards that any strategy and number of ranks reads."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from transformers import AutoModelForCausalLM

from raystage.config import ConfigError
from raystage.data.corpus import Corpus
from raystage.devices.ranks import Ranks
from raystage.runtime.assignment import Assignment
from raystage.runtime.export import export
from raystage.runtime.grow_source import open_source
from raystage.runtime.run_folder import RunFolder
from raystage.tracking.records import RunRecords
from raystage.training import transition
from raystage.training.checkpoint import CheckpointStore
from raystage.training.checkpoint_files import load_tensors
from raystage.training.errors import CheckpointError
from tests.gang import Gang, GangError, gang_of
from tests.training.gang_run import assert_same_run, train, train_rank
from tests.training.made_run import assign, configure, losses, train_here

pytestmark = pytest.mark.long

# 8 sequences a step over 2 and 3 ranks, 2 at a time: unequal numbers of micro-batches; rows of validation and probe alike
BASE = ["training.micro_batch_tokens=64", "validation.rows=7", "pacing.signal=probe", "pacing.probe_tokens=160"]
PLAN = [*BASE, "training.duration=50 steps", "pacing.check_every_steps=5", "checkpoint.every_steps=20", "checkpoint.keep_last=9"]
FSDP = "training.strategy=fsdp"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def two(folder: Path) -> Iterator[Gang]:
    with gang_of(2, folder) as gang:
        yield gang


@pytest.fixture(scope="module")
def three(folder: Path) -> Iterator[Gang]:
    with gang_of(3, folder) as gang:
        yield gang


@pytest.fixture(scope="module")
def alone(folder: Path) -> RunRecords:
    """The run on one rank."""
    return train_here(configure(folder, ["name=alone", *PLAN]))


@pytest.fixture(scope="module")
def sharded(folder: Path, two: Gang) -> RunRecords:
    """The run on two ranks under FSDP."""
    return train(two, configure(folder, ["name=sharded", *PLAN, FSDP]))


def test_fsdp_ddp_and_one_rank_have_the_same_losses(folder: Path, alone: RunRecords, sharded: RunRecords, two: Gang, three: Gang) -> None:
    assert [(d["kind"], d["outcome"]) for d in alone.decisions] == [
        (kind, "applied") for kind in ("raise_seq_len", "grow_depth", "grow_width")
    ]
    assert len(alone.train) == 50
    assert_same_run(sharded, alone)
    assert_same_run(train(two, configure(folder, ["name=ddp", *PLAN])), alone)
    assert_same_run(train(three, configure(folder, ["name=sharded-3", *PLAN, FSDP])), alone)


def test_a_rank_without_a_sequence_takes_part(folder: Path, three: Gang) -> None:
    few = [*BASE, "training.batch_tokens=64", "training.duration=8 steps", "pacing.rule=constant", "pacing.lengths=null"]
    few += ["pacing.depths=null", "pacing.widths=null", "pacing.at=null", "pacing.signal=loss", "validation.rows=1"]
    assert_same_run(train(three, configure(folder, ["name=few-3", *few, FSDP])), train_here(configure(folder, ["name=few", *few])))


def test_a_run_goes_on_under_any_strategy_and_number_of_ranks(
    folder: Path, alone: RunRecords, sharded: RunRecords, two: Gang, three: Gang
) -> None:
    config, ddp = configure(folder, ["name=moved", *PLAN, FSDP]), configure(folder, ["name=moved", *PLAN])
    for gang, settings, stop_after in ((two, config, 2), (None, ddp, 2), (three, config, 2), (three, ddp, 1), (two, config, None)):
        records = train(gang, settings, stop_after)
    assert [r["world_size"] for r in records.starts] == [2, 1, 3, 3, 2]
    assert_same_run(records, alone)
    # the same strategy and number: bit for bit
    config = configure(folder, ["name=stopped", *PLAN, FSDP])
    for stop_after in (5, None):
        records = train(two, config, stop_after)
    assert losses(records) == losses(sharded)
    whole, parts = (CheckpointStore(folder / "runs" / name).all()[-1].folder for name in ("sharded", "stopped"))
    _assert_same_tensors(whole, parts)


def _assert_same_tensors(one: Path, other: Path) -> None:
    a, b = load_tensors(one), load_tensors(other)
    assert (set(a.parameters), set(a.states)) == (set(b.parameters), set(b.states))
    assert all(torch.equal(p, b.parameters[name]) for name, p in a.parameters.items())
    assert all(torch.equal(t, b.states[name][field]) for name, fields in a.states.items() for field, t in fields.items())


def test_a_checkpoint_has_every_ranks_files_and_checksums_and_the_sizes_before_growth(folder: Path, sharded: RunRecords) -> None:
    stored = CheckpointStore(folder / "runs" / "sharded").all()
    assert [s.manifest.reason for s in stored if s.manifest.pinned] == ["before-2", "before-3", "end"]
    for checkpoint in stored:
        files = {str(path.relative_to(checkpoint.folder)) for path in checkpoint.folder.rglob("*") if path.is_file()}
        assert files == {*checkpoint.manifest.files, "config.json", "manifest.json"}
        assert sum(name.startswith("model-shards/shard-") for name in files) == 2
        tensors = load_tensors(checkpoint.folder)
        assert tensors.parameters["transformer.wte.weight"].shape[1] == checkpoint.manifest.shape.d_model
        assert tensors.states["transformer.wte.weight"]["exp_avg"].abs().sum() > 0
        assert int(tensors.states["transformer.wte.weight"]["step"]) == checkpoint.manifest.counters.step


def test_a_damaged_or_missing_shard_is_named_and_the_one_before_is_used(folder: Path, sharded: RunRecords) -> None:
    run = folder / "runs" / "torn"
    shutil.copytree(folder / "runs" / "sharded", run)
    store = CheckpointStore(run)
    *_, before, newest = store.all()
    shards = sorted((newest.folder / "optimizer-shards").glob("shard-*"))
    content = bytearray(shards[1].read_bytes())
    content[-1] ^= 1
    shards[1].write_bytes(content)
    said: list[str] = []
    good = store.latest_good(on_damage=said)
    assert good is not None
    assert good.folder == before.folder
    assert f"{newest.folder.name} is damaged (optimizer-shards/{shards[1].name})" in said[0]
    (last,) = (newest.folder / "model-shards").glob("shard-00002-*")
    (first,) = (newest.folder / "model-shards").glob("shard-00001-*")
    again = last.with_name("shard-00003.safetensors")
    shutil.copy(last, again)
    with pytest.raises(CheckpointError, match="one of the two is stale"):
        load_tensors(newest.folder)
    again.unlink()
    first.unlink()
    with pytest.raises(CheckpointError, match=r"model-shards: rows 0 to \d+ of .* are missing"):
        load_tensors(newest.folder)


def test_an_export_and_what_reads_a_model_see_whole_tensors(folder: Path, sharded: RunRecords, two: Gang) -> None:
    config = configure(folder, ["name=sharded", *PLAN, FSDP])
    stored = CheckpointStore(folder / "runs" / "sharded").latest_good()
    assert stored is not None
    target = export(stored, Corpus.load(assign(config).corpus_folder).tokenizer(), folder / "exported")
    assert not list(target.glob("*shard*"))
    exported = load_file(target / "model.safetensors")
    parameters = load_tensors(stored.folder).parameters
    assert set(exported) == set(parameters)
    assert all(torch.equal(exported[name], p) for name, p in parameters.items())
    model: Any = AutoModelForCausalLM.from_pretrained(target)
    assert all(torch.equal(p, exported[name]) for name, p in model.named_parameters())
    source = open_source(folder / "runs" / "sharded", keep_optimizer=True, verify=True)
    assert all(torch.equal(value, exported[name]) for name, value in source.parameters().items())
    assert source.optimizer is not None
    assert source.optimizer.kind == "AdamW"
    assert set(source.states()) == set(exported)
    for what in ("weights", "state"):
        settings = [*BASE, "pacing.depths=null", "pacing.widths=null", "pacing.lengths=null", "pacing.at=[]", "training.duration=52 steps"]
        start = [f"name=from-{what}", f"init_from.path={folder / 'runs' / 'sharded'}", f"init_from.what={what}", *settings]
        one = train_here(configure(folder, start))
        shard = train(two, configure(folder, [f"name=from-{what}-2", *start[1:], FSDP]))
        assert_same_run(shard, one)
        assert one.train[0]["loss"] == pytest.approx(sharded.train[-1]["loss"], rel=0.2)


def test_an_error_of_one_rank_ends_all_and_leaves_no_checkpoint(folder: Path, two: Gang) -> None:
    config = configure(folder, ["name=full-disk", *PLAN, FSDP])
    with pytest.raises(GangError) as caught:
        two(_train_with_full_disk, assign(config))
    last_lines = [words.strip().splitlines()[-1] for words in str(caught.value).split("rank 1: Traceback")]
    assert len(last_lines) == 2
    assert all(line.endswith("rank 1 could not write its part of a checkpoint (OSError: the disk is full)") for line in last_lines)
    assert not list((folder / "runs" / "full-disk" / "checkpoints").iterdir())


def _train_with_full_disk(ranks: Ranks, assignment: Assignment) -> None:
    def write_data(*args: Any) -> None:
        raise OSError("the disk is full")

    with pytest.MonkeyPatch.context() as patch:
        if ranks.rank == 1:
            patch.setattr(HuggingFaceStorageWriter, "write_data", write_data)
        train_rank(ranks, assignment)


def test_a_growth_that_moves_the_loss_is_undone(folder: Path, two: Gang) -> None:
    settings = [*PLAN, "training.duration=20 steps", "pacing.depths=null", "pacing.lengths=null", "pacing.at=[0.4]", FSDP]
    two(_train_with_broken_growth, assign(configure(folder, ["name=refused", *settings])))
    records = RunRecords.load(folder / "runs" / "refused")
    (decision,) = records.decisions
    assert (decision["outcome"], records.train[-1]["d_model"]) == ("refused", 16)
    pinned, after = (s.folder for s in CheckpointStore(folder / "runs" / "refused").all() if s.manifest.counters.step == 8)
    _assert_same_tensors(pinned, after)


def _train_with_broken_growth(ranks: Ranks, assignment: Assignment) -> None:
    honest = transition.grow_sharded

    def broken(*args: Any) -> Any:
        trainee, tensors = honest(*args)
        tensors.parameters["transformer.wte.weight"].mul_(1.5)
        return trainee, tensors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transition, "grow_sharded", broken)
        train_rank(ranks, assignment)


@pytest.mark.parametrize("tied", ["true", "false"])
def test_llama_with_fewer_heads_for_keys(folder: Path, two: Gang, three: Gang, tied: str) -> None:
    """Widths that three ranks do not divide; a resume in between."""
    settings = [*BASE, "model.family=llama", "model.n_kv_head=2", f"model.tie_embeddings={tied}", "training.duration=20 steps"]
    settings += ["pacing.order=[both]", "pacing.lengths=null", "pacing.at=[0.5]", "pacing.check_every_steps=2"]
    one = train_here(configure(folder, [f"name=llama-{tied}", *settings]))
    config = configure(folder, [f"name=llama-{tied}-sharded", *settings, FSDP])
    train(two, config, stop_after=3)
    assert_same_run(train(three, config), one)


def test_the_strategy_may_change_and_what_cannot_be_sharded_is_refused(folder: Path) -> None:
    run = RunFolder.of(configure(folder, ["name=changed"]))
    run.path.mkdir(parents=True)
    assert run.accept(configure(folder, ["name=changed"])) == []
    assert run.accept(configure(folder, ["name=changed", FSDP])) == ["training.strategy: ddp -> fsdp"]
    with pytest.raises(ConfigError, match=r"training.strategy=fsdp: .*adafactor.*; use adamw or sgd"):
        configure(folder, [FSDP, "training.optimizer.kind=adafactor"])
