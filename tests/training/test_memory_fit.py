"""What memory leaves room for: the largest micro-batch, the fewest blocks checkpointed, the same on every rank; and a run with it."""

from pathlib import Path

import pytest

from raystage.config import Config
from raystage.devices.cpu import Cpu
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.training.errors import RehearsalError
from raystage.training.fit_job import fitted
from raystage.training.job import Job
from raystage.training.memory_fit import GIB, n_checkpointed, step_peak_bytes, with_choices
from raystage.training.policy import plan_of
from tests.gang import GangError, gang_of
from tests.training.made_run import configure, corpus_of, losses, train_here

CHOOSE = ["training.micro_batch_tokens=null"]
CONTEXT, N_SEQUENCES = 32, 8


@pytest.mark.parametrize("at_once", [1, 2, 4, 8])
def test_the_largest_power_of_two_that_fits_is_taken(tmp_path: Path, at_once: int) -> None:
    needed = _needed(tmp_path, at_once)
    assert _chosen(tmp_path, needed) == at_once
    if at_once > 1:
        assert _chosen(tmp_path, needed - 1) == at_once // 2


def test_no_more_than_a_step_has_and_on_a_cpu_than_pays(tmp_path: Path) -> None:
    assert _chosen(tmp_path, 8 * GIB) == N_SEQUENCES
    assert _chosen(tmp_path, 8 * GIB, ["training.batch_tokens=192"]) == 8  # of the 6 there are, in one
    assert _chosen(tmp_path, 8 * GIB, ["training.batch_tokens=1048576"]) == 16384 // CONTEXT


def test_a_gpu_takes_all_that_a_step_has_at_once(tmp_path: Path) -> None:
    job = _job(configure(tmp_path, [*CHOOSE, "training.batch_tokens=192"]))
    spec = job.spec(plan_of(job.config).shapes()[-1])
    assert with_choices(job.config, spec, 8 * GIB, 1, on_cpu=False).training.micro_batch == 8 * CONTEXT  # of the 6 there are, in one
    large = configure(tmp_path, [*CHOOSE, "training.batch_tokens=1048576"])
    assert with_choices(large, spec, 2**50, 1, on_cpu=False).training.micro_batch == 1048576


def test_one_sequence_too_many_for_a_given_memory_is_refused_and_for_a_free_one_left_to_the_preflight_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RehearsalError, match=r"runtime.memory_gib=0.0001: the last stage takes 0.00\d+ GiB .*; raise it, or lower"):
        fitted(_job(configure(tmp_path, [*CHOOSE, "runtime.memory_gib=0.0001"])), pick_device("cpu"), Ranks())
    monkeypatch.setattr(Cpu, "free_bytes", lambda device: 1000)
    tried = _job(configure(tmp_path, [*CHOOSE, "training.preflight=true"]))
    assert fitted(tried, pick_device("cpu"), Ranks()).config.training.micro_batch == CONTEXT
    untried = _job(configure(tmp_path, [*CHOOSE, "training.preflight=false"]))
    with pytest.raises(RehearsalError, match=r"a worker has .* GiB free: the last stage takes .*; give it more, or lower model.n_layer"):
        fitted(untried, pick_device("cpu"), Ranks())


def test_ranks_of_one_machine_share_what_is_free_and_agree_on_the_least(tmp_path: Path) -> None:
    job = _job(configure(tmp_path, [*CHOOSE, "training.preflight=true"]))
    shape = plan_of(job.config).shapes()[-1]
    needed = step_peak_bytes(job.config, job.spec(shape), shape, 2 * CONTEXT, world_size=2, n_blocks=0)
    with gang_of(2, tmp_path) as two:
        assert two(_chosen_on_rank, job, [int(2 * needed / 0.9) + 4, 8 * GIB]) == [2, 2]
        assert two(_chosen_on_rank, job, [8 * GIB, int(needed / 0.9) + 4]) == [1, 1]


def test_sharded_workers_choose_by_the_forecast_of_one_process(tmp_path: Path) -> None:
    sharded = [*CHOOSE, "training.strategy=fsdp"]
    job = _job(configure(tmp_path, sharded))
    shape = plan_of(job.config).shapes()[-1]
    needed = step_peak_bytes(job.config, job.spec(shape), shape, 2 * CONTEXT, world_size=2, n_blocks=0)
    assert needed < step_peak_bytes(job.config, job.spec(shape), shape, 2 * CONTEXT, world_size=1, n_blocks=0), "half of it is elsewhere"
    with gang_of(2, tmp_path) as two:
        assert two(_chosen_on_rank, job, [int(2 * needed / 0.9) + 4, 8 * GIB]) == [2, 2]
        too_little = _job(configure(tmp_path, [*sharded, "runtime.memory_gib=0.0001"]))
        with pytest.raises(GangError, match=r"(?s)(memory_gib=0\.0001: the last stage takes 0\.00\d+ GiB.*){2}"):
            two(_chosen_on_rank, too_little, [GIB, GIB])
        with pytest.raises(GangError, match=r"a worker has .* GiB free: the last stage takes"):  # no preflight of a sharded model
            two(_chosen_on_rank, job, [1000, 1000])


def test_a_number_is_kept_and_a_choice_trains_as_that_number_does(tmp_path: Path) -> None:
    short = ["training.duration=10 steps", "pacing.lengths=null", "pacing.depths=null", "pacing.widths=null", "pacing.at=null"]
    short += ["pacing.rule=constant"]
    config = configure(tmp_path, short)
    assert fitted(job := _job(config), pick_device("cpu"), Ranks()) is job
    memory = f"runtime.memory_gib={_needed(tmp_path, 4) / GIB + 1e-6}"
    chosen = train_here(configure(tmp_path, ["name=chosen", *short, *CHOOSE, memory, "training.preflight=true"]))
    assert chosen.starts[0]["micro_batch_tokens"] == 4 * CONTEXT == config.training.micro_batch
    assert losses(chosen) == losses(train_here(config))


@pytest.mark.parametrize("n_blocks", [0, 1, 2])
def test_as_few_blocks_are_checkpointed_as_fit(tmp_path: Path, n_blocks: int) -> None:
    needed = _needed(tmp_path, N_SEQUENCES, n_blocks)
    settings = [f"training.micro_batch_tokens={N_SEQUENCES * CONTEXT}", "training.activation_checkpointing=auto"]
    assert _checkpointed(tmp_path, settings, needed) == n_blocks
    if n_blocks == 2:
        with pytest.raises(RehearsalError, match=r"with 256 tokens at a time; raise it, or lower training.micro_batch_tokens"):
            _checkpointed(tmp_path, settings, needed - 1)
    else:
        assert _checkpointed(tmp_path, settings, needed - 1) == n_blocks + 1
    assert _checkpointed(tmp_path, ["training.activation_checkpointing=full"]) == 2
    assert _checkpointed(tmp_path, []) == 0


def _checkpointed(folder: Path, settings: list[str], n_bytes: int | None = None) -> int:
    memory = [] if n_bytes is None else [f"runtime.memory_gib={n_bytes / GIB!r}"]
    job = fitted(_job(configure(folder, [*settings, *memory])), pick_device("cpu"), Ranks())
    return n_checkpointed(job.config, job.spec(plan_of(job.config).shapes()[-1]), world_size=1)


def _needed(folder: Path, at_once: int, n_blocks: int = 0) -> int:
    job = _job(configure(folder))
    shape = plan_of(job.config).shapes()[-1]
    return step_peak_bytes(job.config, job.spec(shape), shape, at_once * CONTEXT, world_size=1, n_blocks=n_blocks)


def _chosen(folder: Path, n_bytes: int, overrides: list[str] | None = None) -> int:
    """[sequences]"""
    config = configure(folder, [*CHOOSE, f"runtime.memory_gib={n_bytes / GIB!r}", *(overrides or [])])
    return fitted(_job(config), pick_device("cpu"), Ranks()).config.training.micro_batch // CONTEXT


def _chosen_on_rank(ranks: Ranks, job: Job, free: list[int]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cpu, "free_bytes", lambda device: free[ranks.rank])
        return fitted(job, pick_device("cpu"), ranks).config.training.micro_batch // CONTEXT


def _job(config: Config) -> Job:
    return Job(config, corpus_of(config), Path(config.storage), 1)
