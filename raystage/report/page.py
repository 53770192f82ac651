"""The page: one self-contained HTML file, every text escaped."""

from collections.abc import Sequence

import jinja2

from raystage.report.account import account_of
from raystage.report.facts import Facts, facts_of
from raystage.report.figure import panels_of, svg_uri
from raystage.report.run import Run
from raystage.report.stages import LAST_STEPS, Stage, stages_of
from raystage.report.style import run_style
from raystage.tracking import units
from raystage.tracking.decision_text import label, reason, sentence
from raystage.tracking.records import Record


def page_html(runs: Sequence[Run]) -> str:
    """The whole page of one run or of several."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raystage.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"count": units.count, "flops": units.flops, "time": units.duration, "loss": _loss, "percent": _percent}
    sections = [_section(index, run) for index, run in enumerate(runs)]
    panels = [{"title": panel.title, "uri": svg_uri(panel)} for panel in panels_of(runs)]
    return environment.get_template("page.html").render(sections=sections, panels=panels, last_steps=LAST_STEPS)


def _section(index: int, run: Run) -> dict[str, object]:
    stages = stages_of(run.records)
    facts = facts_of(run, stages)
    return {
        "name": run.name,
        "colour": run_style(index)[0],
        "facts": facts,
        "setting": _setting(run, facts),
        "stages": [_row(stage, facts) for stage in stages],
        "final": stages[-1],
        "account": account_of(run.records.train[-1]),
        "others": [sentence(decision) for decision in run.records.decisions if decision not in [stage.ended_by for stage in stages]],
        "sample": run.sample_text,
        "config": run.config_text,
    }


def _row(stage: Stage, facts: Facts) -> dict[str, object]:
    return {
        "stage": stage,
        "tokens_share": stage.spent.tokens / facts.tokens,
        "flops_share": stage.spent.flops / facts.flops,
        "time_share": stage.spent.time_s / facts.time_s if facts.time_s else 0.0,
        "end": None if stage.ended_by is None else _end(stage.ended_by),
    }


def _end(decision: Record) -> dict[str, str | None]:
    before, after = decision.get("probe_before"), decision.get("probe_after")
    probe = None if before is None or after is None else f"probe {before:.6f} → {after:.6f}"
    return {"label": label(decision), "reason": reason(decision), "probe": probe}


def _setting(run: Run, facts: Facts) -> str:
    sizes = " to ".join(str(size) for size in sorted({facts.world_sizes[0], facts.world_sizes[-1]}))
    parts = [f"{sizes} {'worker' if sizes == '1' else 'workers'}"]
    if facts.device:
        parts.append(facts.device)
    if facts.restarts:
        parts.append(f"{facts.restarts} {'restart' if facts.restarts == 1 else 'restarts'}")
    if not run.records.ends:
        parts.append(f"not ended, at step {run.records.train[-1]['step']}")
    return " · ".join(parts)


def _loss(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"
