"""A decision in words: the same ones in the terminal, in MLflow and in the report."""

from raystage.tracking.records import Record

_LENGTH, _DEPTH, _WIDTH = ("length", "seq_len_tokens"), ("depth", "n_layer"), ("width", "d_model")
_CHANGES = {"raise_seq_len": (_LENGTH,), "grow_depth": (_DEPTH,), "grow_width": (_WIDTH,), "grow_both": (_DEPTH, _WIDTH)}


def label(decision: Record) -> str:
    """A few words: `length 32→64`, `depth 2→4 refused`, `depth 1→2 width 32→64`, `hold`."""
    refused = " refused" if decision.get("outcome") == "refused" else ""
    kind = decision["kind"]
    if kind not in _CHANGES:
        return f"{kind}{refused}"
    changes = (f"{name} {decision['from'][key]}→{decision['to'][key]}" for name, key in _CHANGES[kind])
    return " ".join(changes) + refused


def reason(decision: Record) -> str:
    """What raised it: `slope -0.08 above -0.1`, `after max dwell`, `by the schedule`."""
    trigger, slope, threshold = decision.get("trigger"), decision.get("slope"), decision.get("threshold")
    if trigger == "slope" and slope is not None and threshold is not None:
        return f"slope {slope:.4g} above {threshold:.4g}"
    names = {"max_dwell": "after max dwell", "schedule": "by the schedule", "guard": "by the guard", "manual": "by hand"}
    return names.get(str(trigger), str(trigger))


def sentence(decision: Record) -> str:
    """One line: what, when, why, and the probe's loss before and after a growth."""
    line = f"{label(decision)} at step {decision['effective_step']} ({reason(decision)})"
    before, after = decision.get("probe_before"), decision.get("probe_after")
    if before is not None and after is not None:
        line += f", probe {before:.6f} -> {after:.6f}"
    return line
