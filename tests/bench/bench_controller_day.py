"""The controller actor through a day of 1,000 workers, a step a second: its CPU time and memory, and whether troubles change a decision.

Losses are made ones, of four stages. Each day is compared with the pure function on the same losses.
"""

from tests.bench.controller_day import Day, Troubles
from tests.bench.result import Result
from tests.pacing.curves import MadeRun, PowerLaw, ar1, crossing_at, default_policy, length_plan
from tests.pacing.curves import run as made_run

N_WORKERS, STEPS = 1000, 86_400
THRESHOLD = -0.1
SAVE_EVERY, LOOK_EVERY = 30, 200  # intervals, steps
WORDS_A_DAY = 2 * 86_400  # of rank 0 and of the driver each, whatever happens
STAGE_ENDS = (5_000, 20_000, 50_000)  # steps at which the made slopes cross the threshold
POLICY = default_policy(length_plan(len(STAGE_ENDS)), THRESHOLD)
DAYS = (
    Troubles(),
    Troubles(lost=0.02, late=0.02, doubled=0.05, shuffled=0.05, actor_killed=0.01, group_failed=0.005),
)


def run() -> Result:
    """A calm day, and one with all troubles."""
    made = _recorded()
    days = [Day(POLICY, made.points, N_WORKERS, troubles, SAVE_EVERY, LOOK_EVERY) for troubles in DAYS]
    for day in days:
        played = day.play()
        assert (played.decisions, played.checks, played.state) == (made.decisions, made.checks, made.state)
    return Result(
        f"controller, a day of {N_WORKERS:,} workers", "one core", "%", tuple(map(_percent_of_core, days)), "<= 1.00", _said(days[-1], made)
    )


def _recorded() -> MadeRun:
    laws = [crossing_at(end, THRESHOLD, origin_step=begin) for begin, end in zip((0, *STAGE_ENDS), STAGE_ENDS, strict=False)]
    made = made_run(POLICY, [*laws, PowerLaw(0.0, 0.3, 3.0)], ar1(3, STEPS, 0.5))
    assert len(made.decisions) == len(STAGE_ENDS)
    return made


def _mean_s(day: Day, method: str) -> float:
    return day.actor.seconds[method] / day.actor.calls[method]


def _percent_of_core(day: Day) -> float:
    """Words are sampled; all else was called as often as in a day."""
    sampled = ("ask", "asked")
    called_s = sum(seconds for method, seconds in day.actor.seconds.items() if method not in sampled)
    return 100 * (called_s + WORDS_A_DAY * sum(_mean_s(day, method) for method in sampled)) / 86_400


def _said(day: Day, made: MadeRun) -> str:
    n_bytes, calls = day.played.n_bytes, day.actor.calls
    return (
        f"observe {1e6 * day.actor.seconds['observe'] / len(made.points):.0f} us a step, {1e3 * _mean_s(day, 'observe'):.2f} ms a call; "
        f"a look of the driver {1e3 * _mean_s(day, 'ask'):.1f} ms; holds {min(n_bytes) / 1e3:.0f} to {max(n_bytes) / 1e3:.0f} kB; "
        f"{day.played.n_groups} groups, "
        f"{calls['kill']} actors killed; {len(made.decisions)} decisions and {len(made.checks):,} checks, all alike"
    )


if __name__ == "__main__":
    print(run().line())
