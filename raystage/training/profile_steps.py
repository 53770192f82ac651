"""Some steps of each stage profiled on rank 0: a table in the run folder, and a trace."""

from collections.abc import Callable
from pathlib import Path

from raystage.devices.device import Device
from raystage.devices.profile import Profile

_FIRST = 4  # the step of a stage that is profiled first: by then caches are warm, and code is compiled


class StepProfiler:
    """Profiles `n_steps` steps of every stage, and writes `stage-<n>.txt` and `.json` to `folder` after the last of them."""

    def __init__(self, n_steps: int, folder: Path, device: Device) -> None:
        self._n_steps, self._folder, self._device = n_steps, folder, device
        self._stage, self._n_done = -1, 0
        self._profile: Profile | None = None

    def around(self, stage: int, train: Callable[[], None]) -> None:
        """Trains one step of a stage."""
        if stage != self._stage:
            self.stop()
            self._stage, self._n_done = stage, 0
        if self._n_done == _FIRST - 1 and self._n_steps:
            self._device.synchronize()
            self._profile = self._device.profile()
            self._profile.start()
        train()
        self._n_done += 1
        if self._n_done == _FIRST - 1 + self._n_steps:
            self.stop()

    def stop(self) -> None:
        """Writes what there is, also where a stage or the run ends before."""
        if self._profile is None:
            return
        profile, self._profile = self._profile, None
        profile.stop()
        self._folder.mkdir(exist_ok=True)
        n_steps = self._n_done - _FIRST + 1
        (self._folder / f"stage-{self._stage}.txt").write_text(f"{n_steps} steps of stage {self._stage}\n\n{profile.text()}\n")
        profile.save_trace(self._folder / f"stage-{self._stage}.json")
