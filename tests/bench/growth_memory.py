"""Extra memory at the peak of growth, in a process of its own: python -m tests.bench.growth_memory. Linux only."""

import json
import subprocess
import sys
from pathlib import Path

from tests.bench.growth_state import GPT2_124M, grow_double, tensors_of, training_state
from tests.bench.traffic import state_bytes


def extra_peak_ratio() -> float:
    """Peak resident memory during growth of the 124M state less resident memory before, over the bytes of the grown state."""
    child = subprocess.run([sys.executable, "-m", "tests.bench.growth_memory"], stdout=subprocess.PIPE, check=True, text=True)
    return float(json.loads(child.stdout)["ratio"])


def _measure() -> float:
    state = training_state(GPT2_124M)
    before_bytes, peak_before_bytes = _own_bytes("VmRSS"), _own_bytes("VmHWM")
    grown_bytes = state_bytes(tensors_of(grow_double(state, GPT2_124M)))
    # the peak is of the whole life of the process: growth must have set it
    assert _own_bytes("VmHWM") > peak_before_bytes
    return (_own_bytes("VmHWM") - before_bytes) / grown_bytes


def _own_bytes(key: str) -> int:
    # not getrusage, whose peak a process inherits from the one that started it
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[key].split()[0]) * 1024


if __name__ == "__main__":
    print(json.dumps({"ratio": _measure()}))
