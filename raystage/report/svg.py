"""A panel as SVG for the page itself: text stays text, ids are the page's own, numbers no finer than a screen shows."""

import io
import re

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure

_OWN_ID = re.compile(r' id="(?:figure|axes|patch|line2d|text|legend|xtick|ytick|matplotlib\.axis|LineCollection|PathCollection)_\d+"')
_STYLE = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_COORDINATES = re.compile(r'(?<= d=")[^"]+|(?<= x=")[^"]+|(?<= y=")[^"]+')
_NUMBER = re.compile(r"-?\d+\.\d+")
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def inline_svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an svg element that scales to its place. `name` keeps what it refers to inside apart from other pictures of a page."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head, _, body = text.partition(">")
    box = re.search(r'viewBox="[^"]+"', head)
    assert box is not None
    body = _STYLE.sub("", body)  # a rule for every element, of the page too
    body = _COORDINATES.sub(lambda found: _NUMBER.sub(_rounded, found[0]), _OWN_ID.sub("", body))
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]}'
    # texts of runs are escaped: matplotlib's by its own writer
    return Markup(f'{opening} role="img" aria-label="{escape(description)}">{body}')  # nosec B704


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
