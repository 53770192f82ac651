"""The page: one self-contained HTML file, every text escaped."""

from collections.abc import Sequence

import jinja2
from markupsafe import Markup

from raystage.report.account import cited_account
from raystage.report.cited import Cited
from raystage.report.config_diff import differing_keys
from raystage.report.digest import Digest
from raystage.report.evaluations import columns_of
from raystage.report.figure import Picture
from raystage.report.panels import Look, look_of
from raystage.report.stability import UNSTABLE_RATIO
from raystage.report.stages import LAST_STEPS, Stage
from raystage.report.study import Study
from raystage.report.throughput import Scaling
from raystage.tracking import units
from raystage.tracking.decision_text import label, reason, sentence
from raystage.tracking.records import Record


def page_html(runs: Sequence[Digest], study: Study | None, scaling: Sequence[Scaling], pictures: Sequence[Picture], data: str) -> str:
    """The whole page of one run or of several; `data`: the JSON that stands in it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raystage.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"cited": _cited, "count": units.count, "percent": _percent, "swatch": _swatch}
    return environment.get_template("page.html").render(
        sections=[_section(index, run, len(runs)) for index, run in enumerate(runs)],
        study=study,
        scaling=scaling,
        pictures=pictures,
        differing=differing_keys([run.config_text for run in runs]),
        last_steps=LAST_STEPS,
        unstable_ratio=UNSTABLE_RATIO,
        data=Markup(data),  # nosec B704  # JSON in which every < is escaped
    )


def _section(index: int, run: Digest, n_runs: int) -> dict[str, object]:
    ended = [stage.ended_by for stage in run.stages]
    return {
        "name": run.name,
        "look": look_of("val_loss", index, n_runs),
        "facts": run.facts,
        "setting": _setting(run),
        "stages": [_row(stage, run) for stage in run.stages],
        "final": run.stages[-1],
        "account": cited_account(run.account, run.last_step),
        "is_plain": run.account.is_plain,
        "others": [sentence(decision) for decision in run.decisions if decision not in ended],
        "evaluations": run.evaluations,
        "evaluation_columns": columns_of(run.evaluations),
        "sample": run.sample_text,
        "samples": run.samples,
        "config": run.config_text,
    }


def _row(stage: Stage, run: Digest) -> dict[str, object]:
    whole = {"tokens_seen": run.facts.tokens, "flops": run.facts.flops, "time_s": run.facts.time_s}
    return {
        "stage": stage,
        "shares": {clock: (spent.value or 0.0) / (whole[clock].value or 1.0) for clock, spent in stage.spent.items()},
        "end": None if stage.ended_by is None else _end(stage.ended_by),
    }


def _end(decision: Record) -> dict[str, str | None]:
    before, after = decision.get("probe_before"), decision.get("probe_after")
    probe = None if before is None or after is None else f"probe {before:.6f} → {after:.6f}"
    source = f"decisions.jsonl, decision {decision['decision_id']}"
    return {"label": label(decision), "reason": reason(decision), "probe": probe, "source": source}


def _setting(run: Digest) -> str:
    sizes = " to ".join(str(size) for size in sorted({run.world_sizes[0], run.world_sizes[-1]}))
    parts = [f"{sizes} {'worker' if sizes == '1' else 'workers'}"]
    if run.device:
        parts.append(run.device)
    if run.n_starts > 1:
        parts.append(f"{run.n_starts - 1} {'restart' if run.n_starts == 2 else 'restarts'}")
    if not run.n_ends:
        parts.append(f"not ended, at step {run.last_step}")
    return " · ".join(parts)


def _cited(number: Cited | None, kind: str, absent: str = "n/a") -> Markup:
    """The number in words, with its source to be seen on pointing at it."""
    if number is None or number.value is None:
        return Markup("{}").format(absent)
    return Markup('<span title="{}">{}</span>').format(number.source, _FORMATS[kind](number.value))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if abs(share) < 0.0995 else f"{100 * share:.0f} %"


_FORMATS = {
    "loss": lambda value: f"{value:.3f}",
    "difference": lambda value: f"{value:+.3f}",
    "four": lambda value: f"{value:.4g}",
    "hours": lambda value: f"{value / 3600:#.3g}".rstrip("."),
    "count": units.count,
    "whole": lambda value: f"{round(value):,}",
    "flops": units.flops,
    "time": units.duration,
    "percent": _percent,
}

_SVG_DASHES = {"-": "none", "--": "4 2", ":": "1 2", "-.": "5 2 1 2"}
_SVG_MARKERS = {
    "o": "M16 1a3 3 0 1 0 .01 0Z",
    "s": "M13 1H19V7H13Z",
    "^": "M16 .5 19.5 7H12.5Z",
    "v": "M16 7.5 19.5 1H12.5Z",
    "D": "M16 0 20 4 16 8 12 4Z",
    "P": "M15 .5h2V3h2.5v2H17v2.5h-2V5h-2.5V3H15Z",
    "X": "M13 .5 16 3 19 .5 19.5 1 17 4 19.5 7 19 7.5 16 5 13 7.5 12.5 7 15 4 12.5 1Z",
    "<": "M12.5 4 19 .5V7.5Z",
    ">": "M19.5 4 13 .5V7.5Z",
    "*": "M16 0 17 3H20L17.6 4.8 18.6 8 16 6 13.4 8 14.4 4.8 12 3H15Z",
}


def _swatch(look: Look) -> Markup:
    """A line's key: colour, dash and marker."""
    dash = look.dash if isinstance(look.dash, str) else " ".join(f"{part:g}" for part in look.dash[1])
    line = (
        ""
        if dash == "none"
        else f'<path d="M1 4H31" stroke-width="{max(1.2, look.width):g}" stroke-dasharray="{_SVG_DASHES.get(dash, dash)}"/>'
    )
    marker = f'<path d="{_SVG_MARKERS[look.marker]}" fill="{look.colour}" stroke="none"/>' if look.marker else ""
    return Markup(  # nosec B704  # of style.py's own constants
        f'<svg class="swatch" viewBox="0 0 32 8" aria-hidden="true" fill="none" stroke="{look.colour}" stroke-opacity="{look.alpha:g}">'
        f"{line}{marker}</svg>"
    )
