"""Asks Ray's autoscaler for workers, runs a command when enough of them are there, and lets them go when it has ended.

    python with_workers.py --each '{"CPU": 1, "GPU": 1}' --at-least 1 --at-most 8 -- raystage train ... 'runtime.workers={min: 1, max: 8}'

raystage takes the machines that a cluster has, and an autoscaler adds none that nobody has asked for. There is one request for all
of a cluster: a second job that asks replaces it. It outlives a kill -9 of this process; `python with_workers.py --release` withdraws it.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import ray
from ray.autoscaler.sdk import request_resources

_LOOK_EVERY_S = 2.0
_SAY_EVERY_S = 60.0


def main(arguments: list[str] | None = None) -> int:
    """The exit status of the command; 143 where SIGTERM or SIGINT came before it began."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--each", type=json.loads, default={"CPU": 1, "GPU": 1}, help="resources of one worker, as JSON")
    parser.add_argument("--at-least", type=int, default=1, help="workers to wait for")
    parser.add_argument("--at-most", type=int, default=1, help="workers to ask for")
    parser.add_argument("--release", action="store_true", help="withdraw the request of a job that was killed")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="behind --")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command and not options.release:
        parser.error("give a command behind --")
    if not 1 <= options.at_least <= options.at_most:
        parser.error(f"--at-least {options.at_least} --at-most {options.at_most}: wants 1 <= at-least <= at-most")
    ray.init(address="auto", log_to_driver=False)
    if options.release:
        request_resources(bundles=[])
        return 0
    return _run(command, options.each, options.at_least, options.at_most)


def _run(command: list[str], each: Mapping[str, float], at_least: int, at_most: int) -> int:
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.append(number))
    request_resources(bundles=[dict(each)] * at_most)
    try:
        _wait(each, at_least, signals)
        if signals:
            return 143
        process = subprocess.Popen(command)
        while True:
            try:
                return process.wait(timeout=_LOOK_EVERY_S / 10)
            except subprocess.TimeoutExpired:
                while signals:  # raystage saves a checkpoint at the first
                    process.send_signal(signals.pop(0))
    finally:
        request_resources(bundles=[])


def _wait(each: Mapping[str, float], at_least: int, signals: list[int]) -> None:
    said_s = -_SAY_EVERY_S
    while not signals and (n_workers := _room(each)) < at_least:
        if time.monotonic() - said_s >= _SAY_EVERY_S:
            said_s = time.monotonic()
            print(f"waiting for machines: the cluster has room for {n_workers} workers of {dict(each)}, {at_least} are needed", flush=True)
        time.sleep(_LOOK_EVERY_S)


def _room(each: Mapping[str, float]) -> int:
    """Workers that the living nodes hold, whoever uses them now."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in each.items()) for node in nodes)


if __name__ == "__main__":
    sys.exit(main())
