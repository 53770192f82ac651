"""One from-scratch loss curve as a smooth law: loss = amplitude * (tokens / reference)^-exponent + floor."""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Array = NDArray[np.float64]
MIN_POINTS = 24
MIN_SPAN = 3.0  # last over first token of a curve that tells three numbers apart
_MAX_POINTS = 20_000
_N_BINS = 64
_MIN_BINS = 10
_WINDOW_BINS = 8  # over which the steepest place is looked for
_STEEP_SHARE = 0.8  # of the steepest slope: the first place with so much begins the fit, whatever the noise says behind it
_EARLIEST_START = 0.02  # of the tokens: what lies before is no power law yet, and few points
_LATEST_START = 0.25  # of the tokens: a curve that is steepest later is so from a falling learning rate
_SPIKE_DEVIATIONS, _LEAST_SPIKE = 6.0, 0.05  # robust ones, and relative loss, above the law: such points are left out
_OUTLYING = 0.01  # relative loss of a bin beyond which its pull grows no more
_MAX_FLOOR_SHARE = 0.999
_FLOOR_SHARES = (0.0, 0.4, 0.7, 0.9)  # of the lowest loss, where the search begins


class FitError(ValueError):
    """The curves do not tell the growth point; one line with the cause and the remedy."""


@dataclasses.dataclass(frozen=True)
class LossLaw:
    """loss = amplitude * (tokens / reference_tokens)^-exponent + floor."""

    amplitude: float
    exponent: float
    floor: float
    reference_tokens: float

    def loss(self, tokens: Array) -> Array:
        return self.amplitude * (tokens / self.reference_tokens) ** -self.exponent + self.floor

    def tokens(self, loss: float) -> float:
        """Tokens at which the law reaches `loss`, which lies above the floor."""
        return float(self.reference_tokens * ((loss - self.floor) / self.amplitude) ** (-1 / self.exponent))

    def log_slope(self, loss: float) -> float:
        """d log(loss) / d log(tokens) where the law reaches `loss`; over compute it is the same."""
        return -self.exponent * (loss - self.floor) / loss


@dataclasses.dataclass(frozen=True)
class FittedCurve:
    """The law, the points it was fitted to (tokens, loss: shape (n,)), and how well.

    `residual`: root mean square of the relative loss of bins, equally wide in log tokens, around the law.
    """

    law: LossLaw
    tokens: Array
    loss: Array
    residual: float


def fit_curve(tokens: Array, loss: Array, name: str) -> FittedCurve:
    """The law of one curve, shapes (n,), without its warmup and its spikes.

    A law of this form is steepest where it begins, so what lies before the steepest place is warmup. Raises FitError, with `name`,
    for a curve that is too short or not sound.
    """
    _check(tokens, loss, name)
    tokens, loss = _thinned(tokens, loss)
    keep = tokens >= _warmup_end(tokens, loss)
    tokens, loss = tokens[keep], loss[keep]
    if len(_bin_starts(tokens)) < _MIN_BINS or tokens[-1] < MIN_SPAN * tokens[0]:
        raise FitError(
            f"the {name} curve is too short: after its warmup {len(tokens)} points from {tokens[0]:.3g} to {tokens[-1]:.3g} tokens; "
            f"a fit needs at least {_MIN_BINS} and a factor of {MIN_SPAN:g}; train it longer"
        )
    tokens, loss = _without_spikes(tokens, loss)
    binned = _binned(tokens, loss)
    law = _fit(*binned, start=None)
    residual = np.log(binned[1]) - np.log(law.loss(binned[0]))
    return FittedCurve(law, tokens, loss, float(np.sqrt(np.mean(residual**2))))


def refit(curve: FittedCurve, generator: np.random.Generator) -> LossLaw:
    """The law of a curve that noise like this one's could have made: residuals keep their place, blocks of them are rescaled.

    A dependent wild bootstrap (after Shao 2010) in blocks of sqrt(n) points: it needs neither equal nor independent noise.
    """
    n = len(curve.tokens)
    block = int(np.ceil(np.sqrt(n)))
    scale = np.repeat(generator.standard_normal(-(-n // block)), block)[:n]
    smooth = curve.law.loss(curve.tokens)
    loss = smooth * np.exp(scale * np.log(curve.loss / smooth))
    return _fit(*_binned(curve.tokens, loss), start=curve.law)


def _check(tokens: Array, loss: Array, name: str) -> None:
    if len(tokens) < MIN_POINTS:
        raise FitError(f"the {name} curve has {len(tokens)} points; a fit needs at least {MIN_POINTS}; record the loss more often")
    if not (np.isfinite(tokens).all() and np.isfinite(loss).all() and tokens[0] > 0 and (loss > 0).all()):
        raise FitError(f"the {name} curve holds tokens or a loss that is not a number above 0; leave these points out")
    if not (np.diff(tokens) > 0).all():
        raise FitError(f"the tokens of the {name} curve do not rise from point to point; sort them and leave repeated ones out")


def _thinned(tokens: Array, loss: Array) -> tuple[Array, Array]:
    """Means of as many neighbours as leave no more than _MAX_POINTS."""
    size = -(-len(tokens) // _MAX_POINTS)
    whole = len(tokens) // size * size
    return tokens[:whole].reshape(-1, size).mean(axis=1), loss[:whole].reshape(-1, size).mean(axis=1)


def _binned(tokens: Array, loss: Array) -> tuple[Array, Array]:
    """Means over bins equally wide in log tokens, so that the early curve weighs as much as the late one."""
    starts = _bin_starts(tokens)
    sizes = np.diff([*starts, len(tokens)])
    return np.add.reduceat(tokens, starts) / sizes, np.add.reduceat(loss, starts) / sizes


def _bin_starts(tokens: Array) -> NDArray[np.int64]:
    edges = np.geomspace(tokens[0], tokens[-1], _N_BINS + 1)[1:-1]
    return np.array([0, *(np.flatnonzero(np.diff(np.searchsorted(edges, tokens))) + 1)])


def _without_spikes(tokens: Array, loss: Array) -> tuple[Array, Array]:
    """The points but those far above the law of the bins' medians."""
    borders = _bin_starts(tokens)[1:]
    tokens_m, loss_m = (np.array([np.median(part) for part in np.split(values, borders)]) for values in (tokens, loss))
    residual = np.log(loss / _fit(tokens_m, loss_m, start=None).loss(tokens))
    deviation = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
    keep = residual <= max(_SPIKE_DEVIATIONS * deviation, _LEAST_SPIKE)
    return tokens[keep], loss[keep]


def _warmup_end(tokens: Array, loss: Array) -> float:
    """Tokens where the curve is first about as steep as it gets on log-log axes; the warmup of the learning rate flattens it before."""
    keep = tokens >= _EARLIEST_START * tokens[-1]
    x, y = (np.log(values) for values in _binned(tokens[keep], loss[keep]))
    starts = [i for i in range(len(x) - _WINDOW_BINS) if x[i] <= x[-1] + np.log(_LATEST_START)]
    slopes = [np.polyfit(x[i : i + _WINDOW_BINS], y[i : i + _WINDOW_BINS], 1)[0] for i in starts]
    steep = [i for i, slope in zip(starts, slopes, strict=True) if slope <= _STEEP_SHARE * min(slopes)]
    return float(np.exp(x[steep[0]])) if steep and steep[0] > 0 else float(tokens[keep][0])


def _fit(tokens: Array, loss: Array, start: LossLaw | None) -> LossLaw:
    """Robust least squares of log(loss); the three numbers are searched as log(amplitude), log(exponent) and floor over lowest loss."""
    reference, lowest = float(np.exp(np.log(tokens).mean())), float(loss.min())
    x, y = np.log(tokens / reference), np.log(loss / lowest)

    def parts(theta: Array) -> tuple[Array, Array]:
        power = np.exp(theta[0] - np.exp(theta[1]) * x)
        return power, power + theta[2]

    def residual(theta: Array) -> Array:
        return np.asarray(np.log(parts(theta)[1]) - y)

    def jacobian(theta: Array) -> Array:
        power, total = parts(theta)
        return np.stack([power / total, -power * x * np.exp(theta[1]) / total, 1 / total], axis=1)

    starts = [_start(x, y, share) for share in _FLOOR_SHARES] if start is None else [_theta(start, reference, lowest)]
    bounds = ([-20.0, -7.0, 0.0], [20.0, 2.0, _MAX_FLOOR_SHARE])
    found = [
        optimize.least_squares(residual, theta, jac=jacobian, bounds=bounds, loss="soft_l1", f_scale=_OUTLYING, x_scale="jac")
        for theta in starts
    ]
    best = min(found, key=lambda result: float(result.cost)).x
    return LossLaw(lowest * float(np.exp(best[0])), float(np.exp(best[1])), lowest * float(best[2]), reference)


def _start(x: Array, y: Array, floor_share: float) -> Array:
    """The straight line through log(loss - floor), which is the law if the floor is right."""
    exponent, log_amplitude = np.polyfit(x, np.log(np.exp(y) - floor_share), 1)
    return np.array([log_amplitude, np.log(max(-exponent, 1e-2)), floor_share])


def _theta(law: LossLaw, reference_tokens: float, lowest: float) -> Array:
    amplitude = law.amplitude * (reference_tokens / law.reference_tokens) ** -law.exponent
    return np.array([np.log(amplitude / lowest), np.log(law.exponent), min(law.floor / lowest, _MAX_FLOOR_SHARE)])
