"""What a device that compiles programs has compiled."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Programs:
    """Of this process so far. `n_loaded`: taken from the cache on disk in place of compiling; `n_not_loadable`: found there, but the device
    cannot load programs, as PJRT's CPU cannot, so they were compiled; `fallbacks`: operations that the device does not know and the host
    did in its place, each a wait, like aten::nonzero."""

    n_compiled: int = 0
    n_loaded: int = 0
    n_not_loadable: int = 0
    seconds: float = 0.0
    fallbacks: tuple[str, ...] = ()

    def since(self, before: "Programs") -> "Programs":
        """What has come since."""
        return Programs(
            self.n_compiled - before.n_compiled,
            self.n_loaded - before.n_loaded,
            self.n_not_loadable - before.n_not_loadable,
            self.seconds - before.seconds,
            tuple(name for name in self.fallbacks if name not in before.fallbacks),
        )
