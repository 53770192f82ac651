"""The run in single lines, for logs and pipes: ASCII alone."""

from raystage.config.duration import Duration
from raystage.tracking import units
from raystage.tracking.decision_text import sentence
from raystage.tracking.progress import Progress, percent_done, time_left_s
from raystage.tracking.records import Record


def progress_line(progress: Progress, duration: Duration) -> str:
    """One line on the newest training step; empty before the first."""
    newest = progress.newest
    if newest is None:
        return ""
    left_s = time_left_s(progress, duration)
    parts = [
        f"step {newest['step']}",
        percent_done(progress, duration),
        f"{counted(newest['tokens_seen'])} tokens",
        shape(newest),
        f"loss {number(newest['loss'], '.4f')}",
        _slope(progress.check, newest),
        f"{counted(newest['tokens_per_s'])} tokens/s",
        workers(newest["world_size"]),
        mfu(newest),
        "" if left_s is None else f"{units.duration(left_s)} left",
    ]
    return " | ".join(part for part in parts if part)


def event_line(record: Record) -> str:
    """One line for a start, a preflight, a validation, trouble with storage or the end; empty for other records."""
    match record["kind"]:
        case "start":
            again = f", attempt {record['attempt']}" if record["step"] else ""
            return f"start at step {record['step']} on {workers(record['world_size'])}, {record['device']}{again}"
        case "val":
            end = ", end of the stage" if record["stage_end"] else ""
            return f"validation at step {record['step']}: loss {number(record['val_loss'], '.4f')}{end}"
        case "preflight":
            return _preflight(record)
        case "compile":
            return _compiled(record)
        case "storage":
            return str(record["text"])
        case "end":
            return f"end at step {record['step']}: {units.count(record['tokens_seen'])} tokens in {units.duration(record['time_s'])}"
    return ""


def decision_line(decision: Record) -> str:
    """`decision 3: depth 2 -> 4 at step 360 (why)`."""
    return f"decision {decision['decision_id']}: {sentence(decision).replace('→', ' -> ')}"


def shape(record: Record) -> str:
    """`len 64, 2 layers x 64`."""
    layers = "layer" if record["n_layer"] == 1 else "layers"
    return f"len {record['seq_len_tokens']}, {record['n_layer']} {layers} x {record['d_model']}"


def workers(world_size: int) -> str:
    """`1 worker`, `2 workers`."""
    return "1 worker" if world_size == 1 else f"{world_size} workers"


def number(value: float | None, form: str) -> str:
    """The number, or `not finite`: records hold null for what JSON cannot."""
    return "not finite" if value is None else format(value, form)


def counted(value: float | None) -> str:
    """`1.25M`, or `?` where it is not known."""
    return "?" if value is None else units.count(value)


def mfu(record: Record) -> str:
    """`45% MFU`, `3.1% MFU`; empty where the device's peak is not known."""
    share = record.get("mfu")
    return "" if share is None else format(100 * share, ".0f" if share >= 0.0995 else ".2g") + "% MFU"


def _slope(check: Record | None, newest: Record) -> str:
    if check is None or check["stage"] != newest["stage"] or check["slope"] is None:
        return ""
    threshold = check["threshold"]
    return f"slope {check['slope']:.3f}" + (f" of {threshold:.3f}" if threshold is not None else "")


def _compiled(record: Record) -> str:
    """What a device has compiled by this step, and the operations that it leaves to the host."""
    counts = {"compiled": record["n_compiled"], "loaded from runtime.compile_cache": record["n_loaded"]}
    programs = ", ".join(f"{n} {'program' if n == 1 else 'programs'} {done}" for done, n in counts.items() if n)
    programs += f" in {units.duration(record['seconds'])}" if record["n_compiled"] else ""
    names = ", ".join(record["fallbacks"])
    slow = f"warning: the device leaves {names} to the host, and waits for it each time" if names else ""
    return f"by step {record['step']}: " + "; ".join(part for part in (programs, slow) if part)


def _preflight(record: Record) -> str:
    """What fits, and how long a million tokens will take in the first stage and in the last."""
    fits, asked = record["micro_batch_tokens"], record["micro_batch_tokens_asked"]
    memory = f"micro-batch of {fits} tokens fits" + (f", {asked} ran out of memory" if fits < asked else "")
    times = [units.duration(1e6 * stage["seconds_per_token"]) for stage in record["stages"]]
    speed = times[0] if len(times) == 1 else f"{times[0]} in the first stage, {times[-1]} in the last"
    compiled = f"; compiling took {units.duration(record['compile_s'])}" if record["compile_s"] else ""
    return f"preflight: {memory}; a million tokens take about {speed}{compiled}"
