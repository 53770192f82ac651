"""Findings in the terminal: one line each, the remedies below."""

import json
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raystage.runtime.doctor_findings import Finding, as_json

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def show(found: Sequence[Finding], console: Console, machine_readable: bool) -> int:
    """Prints them; returns how many are problems."""
    if machine_readable:
        print(json.dumps(as_json(found), indent=2))
    else:
        table = Table("", "what", "seen", box=SIMPLE)
        for finding in found:
            table.add_row(f"[{_STYLES[finding.level]}]{finding.level}", finding.name, escape(finding.seen))
        console.print(table)
        for finding in found:
            if finding.remedy:
                console.print(f"{finding.name}: {finding.remedy}", markup=False, soft_wrap=True)
    return sum(finding.level == "problem" for finding in found)
