"""What a device that compiles programs has compiled."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Programs:
    """Of this process so far, compiled code found in the cache not counted. `fallbacks`: operations that the device does not know and the
    host did in its place, each a wait, like aten::nonzero."""

    n_compiled: int = 0
    seconds: float = 0.0
    fallbacks: tuple[str, ...] = ()
