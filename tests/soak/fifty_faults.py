"""A run with fifty faults at random steps against one left alone: `make soak`.

Workers, controllers and nodes are killed, frozen, drained and added, checkpoints damaged; stage changes, growths and saves lie among them.
Exit code 1 where a token is missing or comes twice, a decision moves, or the final loss is off by more than 1e-3. Other numbers of workers
add in another order, and steps amplify that: what rounding alone does is shown by a run without faults that has smaller micro-batches.
"""

import argparse
import math
import random
import tempfile
from pathlib import Path
from typing import Any

from raystage.config import Config
from raystage.tracking.records import RunRecords
from tests.faults import (
    Fault,
    Machines,
    Trained,
    add_node,
    at_step,
    corrupt_newest_checkpoint,
    drain_node,
    freeze_worker,
    kill_controller,
    kill_train_controller,
    kill_worker,
    remove_node,
)
from tests.training.made_run import configure, losses, train_here

STEPS_A_FAULT = 120
CHECKPOINT_EVERY_STEPS, CHECK_EVERY_STEPS = 25, 5
RUN = [
    "training.preflight=false",
    "training.optimizer.lr=5e-4",  # at ten times that rounding alone moves losses by 9% in so many steps
    f"checkpoint.every_steps={CHECKPOINT_EVERY_STEPS}",
    "checkpoint.keep_last=3",
    "runtime.engine=ray",
    "runtime.resize_check_s=0.5",
    "runtime.stall_minutes=0.15",
    "runtime.decision_timeout_s=1",
    "validation.every_steps=1000",
]


def main() -> None:
    """Trains both, prints what happened, compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Machines(n_cpus=1) as machines:
        folder, n_steps = Path(name), STEPS_A_FAULT * (options.faults + 1)
        alone = train_here(_config(folder, "alone", n_steps))
        rounded = train_here(_config(folder, "rounded", n_steps, "training.micro_batch_tokens=64"))
        changes = [d["effective_step"] for d in alone.decisions]
        faults = _faults(options.faults, random.Random(options.seed), changes)
        trained = machines.train(_config(folder, "faulty", n_steps, "runtime.workers={min: 1, max: 3}"), faults)
    print_table(trained)
    print(f"rounding alone, by smaller micro-batches: largest difference of any step {_largest_difference(rounded, alone):.1e}, relative")
    raise SystemExit(0 if _is_same(trained, alone) and trained.finished else 1)


def _config(folder: Path, name: str, n_steps: int, *more: str) -> Config:
    return configure(folder, [f"name={name}", f"training.duration={n_steps} steps", *RUN, *more])


def _faults(n: int, chance: random.Random, changes: list[int]) -> list[Fault]:
    """One at a random step of each stretch of the run, and one right at each change of stage."""
    faults: list[Fault] = []
    n_nodes = 0
    for number in range(n):
        low = STEPS_A_FAULT * (number + 1)
        change = next((step for step in changes if low <= step < low + STEPS_A_FAULT), None)
        step = change - 1 if change is not None else low + chance.randrange(STEPS_A_FAULT // 2)
        kinds: list[tuple[Any, dict[str, Any]]] = [
            (kill_worker, {"rank": 0}),
            (kill_worker, {}),
            (kill_controller, {}),
            (kill_train_controller, {}),
            (freeze_worker, {}),
            (corrupt_newest_checkpoint, {}),
        ]
        kinds += [(add_node, {})] * 3 if n_nodes < 2 else []
        kinds += [(remove_node, {}), (drain_node, {"deadline_s": 60})] if n_nodes else []
        action, how = chance.choice(kinds)
        n_nodes += {add_node: 1, remove_node: -1, drain_node: -1}.get(action, 0)
        faults.append(at_step(step, action, **how))
    return faults


def print_table(trained: Trained) -> None:
    """Each fault: the step in the records when it happened, the steps that were trained again, and the seconds to the next new step."""
    print(f"{'second':>7} {'step':>6} {'fault':<32} {'again':>6} {'seconds to the next step':>25}")
    ends = [*(second for second, _, _ in trained.happened[1:]), math.inf]
    for (second, step, what), end in zip(trained.happened, ends, strict=True):
        restart = next((restart for restart in trained.restarts if second <= restart.second < end), None)
        again = "" if restart is None else str(max(0, restart.reached_step - restart.from_step))
        waited = "" if restart is None else f"{restart.second - second:.1f}"
        print(f"{second:7.1f} {step:6d} {what:<32} {again:>6} {waited:>25}")


def _is_same(trained: Trained, alone: RunRecords) -> bool:
    records = trained.records
    steps = [r["step"] for r in records.train] == [r["step"] for r in alone.train]
    tokens = [r["batch_crc32"] for r in records.train] == [r["batch_crc32"] for r in alone.train]
    decisions = [(d["kind"], d["effective_step"]) for d in records.decisions] == [(d["kind"], d["effective_step"]) for d in alone.decisions]
    ours, theirs = losses(records)[-1][1], losses(alone)[-1][1]
    near = math.isclose(ours, theirs, rel_tol=1e-3)
    print(f"every step once: {steps}; the same tokens in the same order: {tokens}; the same decisions: {decisions}")
    repeated = [restart.reached_step - restart.from_step for restart in trained.restarts]
    bounded = max(repeated, default=0) <= CHECKPOINT_EVERY_STEPS + CHECK_EVERY_STEPS
    print(f"{len(repeated)} restarts, steps repeated: {sum(repeated)} in all, {max(repeated, default=0)} at the most: bounded {bounded}")
    print(f"final loss {ours:.6f} against {theirs:.6f}; largest difference of any step {_largest_difference(records, alone):.1e}, relative")
    return steps and tokens and decisions and bounded and near


def _largest_difference(records: RunRecords, alone: RunRecords) -> float:
    return max(abs(a - b) / b for (_, a), (_, b) in zip(losses(records), losses(alone), strict=False))


if __name__ == "__main__":
    main()
