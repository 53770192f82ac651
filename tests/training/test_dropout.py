"""What dropout draws: something else at every step and on every rank, the same again for a run that is trained again."""

from pathlib import Path
from unittest import mock

from raystage.devices.cpu import Cpu
from raystage.devices.ranks import Ranks
from raystage.runtime.assignment import Assignment
from tests.gang import gang_of
from tests.training.gang_run import train_rank
from tests.training.made_run import assign, configure

N_STEPS = 6


def run(folder: Path, name: str, *more: str) -> Assignment:
    flat = ["pacing.lengths=null", "pacing.depths=null", "pacing.widths=null", "pacing.rule=constant", "pacing.at=null"]
    return assign(configure(folder, [f"name={name}", *flat, f"training.duration={N_STEPS} steps", "model.dropout=0.2", *more]))


def seeds_of(ranks: Ranks, assignment: Assignment) -> list[int]:
    """Of the generator that this rank's dropout draws from, in the order of its steps."""
    with mock.patch.object(Cpu, "seed", autospec=True, side_effect=Cpu.seed) as seed:
        train_rank(ranks, assignment)
    return [call.args[1] for call in seed.call_args_list]


def test_every_step_of_every_rank_has_a_mask_of_its_own(tmp_path: Path) -> None:
    with gang_of(2, tmp_path) as gang:
        first, second = gang(seeds_of, run(tmp_path, "two"))
    assert len(first) == len(second) == N_STEPS
    assert len({*first, *second}) == 2 * N_STEPS


def test_a_run_trained_again_draws_the_same_and_another_seed_another(tmp_path: Path) -> None:
    once, again, other = (seeds_of(Ranks(), run(tmp_path, name, *more)) for name, *more in [("once",), ("again",), ("other", "seed=9")])
    assert again == once
    assert not {*other} & {*once}
