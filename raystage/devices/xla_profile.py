"""Where the time of some steps goes, as torch_xla counts it."""

import importlib.util
import time
from pathlib import Path

if importlib.util.find_spec("torch_xla") is not None:
    import torch_xla.core.xla_model as xm
    import torch_xla.debug.metrics as met

# its metrics: seconds are in nanoseconds there; with one program a device, and with one over all of them
_SECONDS = {
    "tracing on the host": ("LazyTracing",),
    "compiling": ("CompileTime",),
    "programs handed to the device": ("ExecuteTime", "ExecuteReplicatedTime"),
    "copies to the device": ("TransferToDeviceTime",),
    "copies to the host": ("TransferFromDeviceTime",),
}
_BYTES = {"to the device": ("OutboundData",), "to the host": ("InboundData",)}
_READ = "aten::_local_scalar_dense"  # a number read by the host, which it asked for


def fallbacks() -> tuple[str, ...]:
    """Operations that the device has left to the host in this process, by name."""
    return tuple(sorted(name for name in met.counter_names() if name.startswith("aten::") and name != _READ))


class XlaProfile:
    def start(self) -> None:
        self._begin_s, self._before = time.perf_counter(), _counts()

    def stop(self) -> None:
        handed_over_s = time.perf_counter()
        xm.wait_device_ops()
        end_s = time.perf_counter()
        self._host_s, self._wait_s = handed_over_s - self._begin_s, end_s - handed_over_s
        self._after = _counts()

    def text(self) -> str:
        lines = [f"{'host, until the last step is handed over':<42} {self._host_s:>10.4f} s"]
        lines += [f"{'then the device worked on for':<42} {self._wait_s:>10.4f} s", "", f"{'of that':<42} {'times':>10} {'in all':>14}"]
        for name in _SECONDS:
            times, nanoseconds = self._since(name)
            lines.append(f"{name:<42} {times:>10d} {nanoseconds / 1e9:>12.4f} s")
        for name in _BYTES:
            times, n_bytes = self._since(name)
            lines.append(f"{f'bytes {name}':<42} {times:>10d} {n_bytes:>14,.0f}")
        lines += ["", f"left to the host since the process began: {', '.join(fallbacks()) or 'nothing'}"]
        return "\n".join(lines)

    def save_trace(self, path: Path) -> None:
        """There is none: torch_xla's traces come from a server that TensorBoard asks."""

    def _since(self, name: str) -> tuple[int, float]:
        times, total = self._after[name]
        return times - self._before[name][0], total - self._before[name][1]


def _counts() -> dict[str, tuple[int, float]]:
    return {name: _sum(metrics) for name, metrics in {**_SECONDS, **_BYTES}.items()}


def _sum(metrics: tuple[str, ...]) -> tuple[int, float]:
    found = [met.metric_data(name) or (0, 0.0, None) for name in metrics]
    return sum(times for times, _, _ in found), sum(total for _, total, _ in found)
