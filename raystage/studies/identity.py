"""What makes two runs the same: the keys that move figures, and their digest, with which a run's name ends. Pure."""

import zlib

from raystage.config import Config, flat, to_tree
from raystage.training.policy import plan_of

# where and how a run is trained moves none of its figures
_NOT_WHAT = ("name", "storage", "runtime.", "checkpoint.", "tracking.", "data.cache_dir", "data.node_cache_dir", "data.processes")
_THRESHOLD, _FLOOR = "pacing.thresholds.", "pacing.min_tokens_per_parameter"
# defaults of the first runs that have changed since: a digest goes on as it was, so that nothing is trained anew for another default
_FIRST_DEFAULTS = {_THRESHOLD + "length": -0.10, _THRESHOLD + "depth": -0.0575}


def digest(config: Config) -> str:
    """Of what is not as it was by default: a key that raystage learns later does not change it."""
    default = flat(to_tree(Config())) | _FIRST_DEFAULTS
    told = sorted((key, value) for key, value in _moving(config).items() if value != default.get(key))
    return f"{zlib.crc32(repr(told).encode()):08x}"


def digest_in(name: str) -> str:
    """That of a run's name; runs with the same one are the same runs, whatever study or arm they were trained for."""
    return name.rpartition("_")[2]


def differing_key(theirs: Config, config: Config) -> str | None:
    """A key that moves figures, and differs: of two with one digest, one whose default has changed since the first was trained."""
    ours, others = _moving(config), _moving(theirs)
    return next((f"{key}={others.get(key)}, now {ours[key]}" for key in ours if ours[key] != others.get(key)), None)


def _moving(config: Config) -> dict[str, object]:
    """The keys that move figures; what is for changes by slope moves none where no such change waits for it."""
    by_slope = [change for change in plan_of(config).changes if change.at is None]
    awaited = {_THRESHOLD + "stop", *(_THRESHOLD + kind for change in by_slope for kind in change.threshold_kinds)}
    if any(change.grows for change in by_slope):
        awaited.add(_FLOOR)
    keys = flat(to_tree(config))
    idle = {key for key in keys if key == _FLOOR or key.startswith(_THRESHOLD)} - awaited
    return {key: value for key, value in keys.items() if not key.startswith(_NOT_WHAT) and key not in idle}
