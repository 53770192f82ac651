"""The live view in a notebook: one output of a cell, which is replaced; IPython alone, no widgets."""

from typing import Any

from raystage.tracking.panel import RunPanel


class NotebookView:
    """Stays in the notebook when the run is over."""

    def __init__(self) -> None:
        self._shown: Any = None

    def start(self) -> None:
        """Nothing is shown yet."""

    def stop(self) -> None:
        """What was shown last stays."""

    def update(self, panel: RunPanel, *, refresh: bool = True) -> None:
        """Shows it in place of the one before."""
        from IPython.display import display  # there where rich sees a notebook

        if self._shown is None:
            self._shown = display(panel, display_id=True)
        else:
            self._shown.update(panel)
