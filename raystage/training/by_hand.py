"""Commands by hand as decisions: which one is next, and what it means for the plan."""

import dataclasses

from raystage.pacing.point import Decision
from raystage.pacing.stage import Change, Plan, Taken
from raystage.training.ports import Command, Commands

# the kinds of change that an action may mean
WANTED = {"raise": ("length", "batch"), "grow": ("depth", "width")}


def next_command(commands: Commands, done: set[int], step: int) -> Command | None:
    """The first command that is not done and is due at the boundary after `step`; it takes effect with the step after it."""
    for command in commands.all():
        if command.command_id in done:
            continue
        if command.effective_step is None:
            commands.assign(command.command_id, step + 1)
            return dataclasses.replace(command, effective_step=step + 1)
        # those given later wait for one whose step is still to come again, after a restart
        return command if command.effective_step <= step + 1 else None
    return None


def decision_of(command: Command, plan: Plan, taken: Taken, step: int) -> Decision:
    """What the command decides; one that the plan has nothing for is refused, with the reason in words."""
    base = Decision("hold", taken, step, step + 1, "manual", command_id=command.command_id)
    if command.action in ("pause", "resume", "stop"):
        action = {"pause": "hold", "resume": "resume", "stop": "stop"}[command.action]
        return dataclasses.replace(base, action=action)  # type: ignore[arg-type]
    wanted = (command.what,) if command.what else WANTED[command.action]
    for track, change in plan.heads(taken):
        if _has_kind(change, wanted):
            return dataclasses.replace(base, action="change", track=track, change=change)
    heads = " or ".join(str(change) for _, change in plan.heads(taken)) or "none, it is complete"
    return dataclasses.replace(base, action="refuse", reason=f"no {' or '.join(wanted)} comes next; the plan's next change: {heads}")


def _has_kind(change: Change, wanted: tuple[str | None, ...]) -> bool:
    return any(kind in wanted for kind in change.kind.split("+"))
