"""Two recorded curves to the growth point that they tell: `raystage replay SMALL --fit LARGE`."""

import dataclasses

import numpy as np

from raystage.config import ConfigError
from raystage.pacing.fit import FitError, GrowthFit, LossCurve, fit_growth
from raystage.runtime.curve_file import RecordedCurve
from raystage.runtime.replay import Axes

_PEAK_SHARE = 0.99  # of the highest learning rate, from which on it counts as the peak


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A curve, its x, and the parameters of its model that multiply per token."""

    curve: RecordedCurve
    axes: Axes
    parameters: float


def fit_recorded(small: Recorded, large: Recorded) -> GrowthFit:
    """The growth point of two from-scratch curves. Raises ConfigError where they tell none."""
    try:
        return fit_growth(_from_scratch(small), _from_scratch(large))
    except FitError as error:
        raise ConfigError(f"--fit: {error}") from None


def _from_scratch(recorded: Recorded) -> LossCurve:
    """Without the warmup and the final decay of the learning rate, where it is known; another warmup is found by its flatness."""
    curve = recorded.curve
    if len(set(curve.stage.tolist())) > 1:
        raise ConfigError(f"--fit: {curve.path} changes its stage; give runs that train one model from scratch, pacing.rule=constant")
    keep = slice(None) if curve.lr is None else _steady(curve.lr)
    return LossCurve(recorded.axes.tokens[keep], curve.loss[keep], recorded.parameters)


def _steady(lr: np.ndarray) -> slice:
    """From the peak on; to its end where it is a plateau of at least half of what is left, else to the end."""
    at_peak = np.flatnonzero(lr >= _PEAK_SHARE * lr.max())
    first, last = int(at_peak[0]), int(at_peak[-1])
    return slice(first, last + 1 if last - first >= (len(lr) - first) / 2 else None)
