"""A decision in words: the same ones in the terminal, in MLflow and in the report."""

from raystage.tracking.records import Record

_FIELDS = {"length": "seq_len_tokens", "depth": "n_layer", "width": "d_model", "batch": "batch_tokens"}
_CHANGES = {
    "raise_seq_len": ("length",),
    "grow_depth": ("depth",),
    "grow_width": ("width",),
    "grow_both": ("depth", "width"),
    "raise_batch": ("batch",),
}


def label(decision: Record) -> str:
    """A few words: `length 32→64`, `depth 2→4 refused`, `depth 1→2 width 32→64`, `hold`, `rollback to step 400`."""
    refused = " refused" if decision.get("outcome") == "refused" else ""
    kind = decision["kind"]
    if kind == "rollback":
        return f"rollback to step {decision.get('restored_step', '?')}{refused}"
    if not is_change(decision):
        return f"{kind}{refused}"
    names = [name for part in kind.split("+") for name in _CHANGES[part]]
    before, after = decision["from"], decision["to"]
    return " ".join(f"{name} {before[_FIELDS[name]]}→{after[_FIELDS[name]]}" for name in names) + refused


def is_change(decision: Record) -> bool:
    """Whether it is a change of stage: a length, a size, a batch."""
    return all(part in _CHANGES for part in decision["kind"].split("+"))


def reason(decision: Record) -> str:
    """What raised it: `slope -0.08 above -0.1`, `after max dwell`, `by the schedule`."""
    trigger, slope, threshold = decision.get("trigger"), decision.get("slope"), decision.get("threshold")
    if trigger == "slope" and slope is not None and threshold is not None:
        return f"slope {slope:.4g} above {threshold:.4g}"
    words = decision.get("reason")
    if trigger in ("guard", "manual") and words:
        return f"{'by the guard' if trigger == 'guard' else 'by hand'}: {words}"
    if trigger == "max_dwell":
        return f"after {words or 'max dwell'}"
    names = {"schedule": "by the schedule", "guard": "by the guard", "manual": "by hand"}
    return names.get(str(trigger), str(trigger))


def sentence(decision: Record) -> str:
    """One line: what, when, why, and the probe's loss before and after a growth."""
    line = f"{label(decision)} at step {decision['effective_step']} ({reason(decision)})"
    before, after = decision.get("probe_before"), decision.get("probe_after")
    if before is not None and after is not None:
        line += f", probe {before:.6f} -> {after:.6f}"
    return line
