"""Keeps freed memory in the process: a step on the CPU asks again for the same hundreds of megabytes.

glibc maps each large tensor anew and unmaps it when it is freed, so the system clears all pages of every step once more.
"""

import ctypes
import platform

# mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
# glibc keeps no large block of a thread that has a heap of its own, and Ray Train trains in a thread; read when a process starts
ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}


def keep_freed_memory() -> None:
    """From now on, in this process, where its C library is glibc. What is kept counts as resident, up to the most that was ever used."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)
