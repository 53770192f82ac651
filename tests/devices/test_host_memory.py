"""Memory that a process frees is there for its next step without the system clearing it again."""

import json
import os
import platform
import subprocess
import sys

import pytest

from raystage.devices.host_memory import ONE_HEAP

_MEGABYTES, _TIMES = 32, 6
_FAULTS_OF_ONE = _MEGABYTES * 2**20 // 4096
_PROGRAM = f"""
import json, resource, sys, threading
import torch
from raystage.devices.host_memory import keep_freed_memory

def faults():
    for _ in range(20):  # until small ones have filled the gaps that alignment leaves
        torch.ones({_MEGABYTES}, 2**18)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({_TIMES}):
        torch.ones({_MEGABYTES}, 2**18)
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

found = []
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(2):  # twice: a thread of the operating system is not always a new one
    thread = threading.Thread(target=faults)
    thread.start()
    thread.join()
faults()
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory, or do not, by rules of their own")
def test_a_large_tensor_is_made_again_where_the_one_before_it_was() -> None:
    assert max(_faults("kept")) < _FAULTS_OF_ONE / 4
    assert min(_faults("as usual")) > (_TIMES - 1) * _FAULTS_OF_ONE  # or there would be nothing to mend


def _faults(how: str) -> list[int]:
    """Pages that the system cleared, in two threads and in the main one."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, check=True, env={**os.environ, **ONE_HEAP})
    found: list[int] = json.loads(done.stdout)
    return found
