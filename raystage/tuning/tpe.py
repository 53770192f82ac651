"""Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), asked anew each time with all that is known."""

import json
import logging
import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from raystage.config.search import Strategy as Settings
from raystage.config.search_space import Dimension, Point, Space
from raystage.tuning.point_result import PointResult, Told, best_of

logging.getLogger("optuna").setLevel(logging.ERROR)
_CONSTRAINT = "stable"  # broken above 0
_NO_VALUE = 1e30  # behind every other; such a point has broken a constraint


class Tpe:
    """So many points, each proposed in the light of those before; a constraint that a point broke is told as one, not as a bad value."""

    def __init__(self, space: Space, settings: Settings) -> None:
        self._space, self._settings = space, settings
        self._distributions = {dimension.key: _distribution(dimension) for dimension in space.dimensions}

    @property
    def most_points(self) -> int:
        return self._settings.n_points

    def wanted(self, told: Told, begun: Sequence[Point]) -> list[Point]:
        if len(begun) >= self._settings.n_points:
            return []
        study = self._study(told, begun)
        for _ in range(100):  # a finite space repeats itself, and may be used up
            params = study.ask(self._distributions).params
            point = tuple((key, self._value(key, params[key])) for key in self._space.keys)
            if point not in begun:
                return [point]
        return []

    def chosen(self, told: Told) -> Point | None:
        return best_of(told)

    def why(self, told: Told) -> str:
        return f"the best of {len(told)} points that Optuna's TPE proposed, the cheapest within the spread over seeds"

    def _study(self, told: Told, begun: Sequence[Point]) -> optuna.Study:
        seed = self._settings.sampler_seed + len(begun)
        sampler = TPESampler(seed=seed, constant_liar=True)
        study = optuna.create_study(direction="minimize", sampler=sampler)
        for point in begun:
            study.add_trial(self._frozen(point, told.get(point)))
        return study

    def _frozen(self, point: Point, result: PointResult | None) -> FrozenTrial:
        params = {
            key: value if isinstance(self._distributions[key], CategoricalDistribution) else json.loads(value) for key, value in point
        }
        common: dict[str, Any] = {"params": params, "distributions": self._distributions}
        if result is None:
            return create_trial(state=TrialState.RUNNING, **common)
        if result.failed:
            return create_trial(state=TrialState.FAIL, **common)
        # one that ended early counts by the value that it had: where it was, it was behind
        broken = 1.0 if result.rejected and not result.ended_early else 0.0
        value = result.value if result.value is not None and math.isfinite(result.value) else _NO_VALUE
        return create_trial(value=value, constraints={_CONSTRAINT: broken}, **common)

    def _value(self, key: str, value: Any) -> str:
        return str(value) if isinstance(self._distributions[key], CategoricalDistribution) else self._space[key].text(value)


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.values:
        return CategoricalDistribution(dimension.values)
    if dimension.whole:
        return IntDistribution(round(dimension.low), round(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
