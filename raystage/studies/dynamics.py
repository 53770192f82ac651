"""Does a grown model learn as fast as one from scratch? Slope against slope at equal loss, where the two curves lie over each other.

The training dynamics of Shen et al. (2203.06211, section 3). Pure.
"""

import dataclasses

import numpy as np

from raystage.report.columns import Values
from raystage.studies.equal_loss import Curve


@dataclasses.dataclass(frozen=True)
class Comparison:
    """At `loss` [nats a token]. `shift_tokens`: what puts the grown curve on the target's clock.

    Slopes are d log10(loss) / d log10(tokens) there.
    """

    loss: float
    shift_tokens: float
    grown_slope: float
    target_slope: float

    @property
    def ratio(self) -> float:
        return self.grown_slope / self.target_slope


def compare(grown: Curve, target: Curve, begin_tokens: float, window_tokens: float) -> Comparison | None:
    """Grown against target, over the `window_tokens` of the grown curve from `begin_tokens` on.

    A line through log10(loss) over tokens gives the grown loss in the middle of that window. The target's place is where the
    middle of such a line over a window of the same width first has this loss. Both windows are then fitted by least squares
    as log10(loss) over log10(tokens), the grown one shifted so that the middles meet; as loss and tokens are equal there,
    the ratio of these slopes is that of d loss / d tokens. None where the target has no such window: it begins below this
    loss or never gets there.
    """
    middle = begin_tokens + window_tokens / 2
    log_loss = _middle_value(grown, middle, window_tokens)
    place = _first_place(target, log_loss, window_tokens)
    if place is None:
        return None
    return Comparison(
        loss=float(10**log_loss),
        shift_tokens=place - middle,
        grown_slope=_slope(grown, middle, window_tokens, place - middle),
        target_slope=_slope(target, place, window_tokens, 0.0),
    )


def _first_place(curve: Curve, log_loss: float, window_tokens: float) -> float | None:
    tokens = curve.x
    middles = tokens[(tokens - window_tokens / 2 >= tokens[0]) & (tokens + window_tokens / 2 <= tokens[-1])]
    smooth = np.array([_middle_value(curve, middle, window_tokens) for middle in middles])
    below = np.flatnonzero(smooth <= log_loss)
    if len(below) == 0 or below[0] == 0:
        return None
    i = below[0]
    share = (smooth[i - 1] - log_loss) / (smooth[i - 1] - smooth[i])
    return float(middles[i - 1] + share * (middles[i] - middles[i - 1]))


def _middle_value(curve: Curve, middle: float, window_tokens: float) -> float:
    tokens, log_losses = _window(curve, middle, window_tokens)
    return float(np.polynomial.polynomial.polyfit(tokens - middle, log_losses, 1)[0])


def _slope(curve: Curve, middle: float, window_tokens: float, shift_tokens: float) -> float:
    tokens, log_losses = _window(curve, middle, window_tokens)
    return float(np.polynomial.polynomial.polyfit(np.log10(tokens + shift_tokens), log_losses, 1)[1])


def _window(curve: Curve, middle: float, window_tokens: float) -> tuple[Values, Values]:
    tokens, losses = curve.x, curve.losses
    inside = np.abs(tokens - middle) <= window_tokens / 2
    return tokens[inside], np.log10(losses[inside])
