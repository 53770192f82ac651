"""The same question asked on every machine at once, in bounded time."""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raystage.runtime.ray_failure import last_line

# a task that takes no GPU would see none
_SEES_DEVICES = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}


class Nodes(Protocol):
    """`silent`: machines that have not answered once, and why; they are not asked again."""

    silent: dict[str, str]
    names: tuple[str, ...]

    def each(self, question: Callable[..., Any], *arguments: Any, named: bool = False) -> dict[str, Any]:
        """The answers by machine. `named`: the question is told the machine's name before the arguments."""
        ...


class ThisMachine:
    """The one where nobody has to be asked over a network."""

    def __init__(self, name: str) -> None:
        self.silent: dict[str, str] = {}
        self.names: tuple[str, ...] = (name,)

    def each(self, question: Callable[..., Any], *arguments: Any, named: bool = False) -> dict[str, Any]:
        return {self.names[0]: question(*([*self.names] if named else []), *arguments)}


class RayNodes:
    """The nodes of the cluster that this process has joined; a task on each, which waits for no resources."""

    def __init__(self, timeout_s: float) -> None:
        self.silent: dict[str, str] = {}
        self._timeout_s, self.ids = timeout_s, _names()
        self.names = tuple(self.ids)

    def each(self, question: Callable[..., Any], *arguments: Any, named: bool = False) -> dict[str, Any]:
        task = ray.remote(num_cpus=0, max_retries=0, runtime_env=_SEES_DEVICES)(question)
        asked = {
            name: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(
                *([name] if named else []), *arguments
            )
            for name, node_id in self.ids.items()
            if name not in self.silent
        }
        ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=self._timeout_s) if asked else ([], [])
        answers = {}
        for name, reference in asked.items():
            if reference not in ready:
                self.silent[name] = f"no answer within {self._timeout_s:.0f} s"
                with contextlib.suppress(RayError):
                    ray.cancel(reference, force=True)
                continue
            try:
                answers[name] = ray.get(reference)
            except RayError as error:
                self.silent[name] = last_line(error)
        return answers


def _names() -> dict[str, str]:
    """Ids of the nodes that live, by host name; where several have one host, a part of the id tells them apart."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    hosts = [node["NodeManagerHostname"] for node in alive]
    return {
        host if hosts.count(host) == 1 else f"{host}-{node['NodeID'][:6]}": node["NodeID"] for host, node in zip(hosts, alive, strict=True)
    }
