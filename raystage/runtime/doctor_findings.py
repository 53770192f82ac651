"""What `raystage doctor` makes of the facts: one finding a question, each with its remedy. Pure."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from raystage.config import Config
from raystage.config.ray_address import is_loopback
from raystage.config.redact import redacted
from raystage.runtime.doctor_facts import Facts, NodeFacts, PlaceFacts
from raystage.training.worker_range import all_ranges

Level = Literal["ok", "warning", "problem"]

_GIB = 2**30
_SCARCE_BYTES = 5 * _GIB  # of a disk, for logs and spilled objects beside checkpoints
_SHARED_MEMORY_BYTES = _GIB  # containers begin with 64 MB, and Ray's objects do not fit
_OPEN_FILES = 4096
_CLOCK_S = 1.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """`seen`: the facts in a few words; `remedy`: what to do, empty where all is well."""

    name: str
    level: Level
    seen: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True)
class Needs:
    """Of the largest stage: `state_bytes` of weights and optimizer on one worker, `checkpoints_bytes` of all checkpoints kept."""

    state_bytes: int
    checkpoints_bytes: int


def findings(facts: Facts, config: Config, needs: Needs) -> list[Finding]:
    """Everything there is to say, in a fixed order."""
    if not facts.nodes:
        return [judge_nodes(facts)]
    places = [judge_place(key, place, found, len(facts.nodes)) for key, (place, found) in facts.places.items()]
    return [
        judge_nodes(facts),
        judge_versions(facts),
        judge_devices(facts, config.runtime.device),
        judge_workers(facts, config),
        *places,
        judge_data(facts.data),
        judge_disks(facts.nodes, needs.checkpoints_bytes),
        judge_memory(facts.nodes, needs.state_bytes),
        judge_shared_memory(facts.nodes),
        judge_open_files(facts.nodes),
        judge_clocks(facts.clocks),
        judge_token(facts),
        judge_dashboard(facts),
        judge_mlflow(facts.mlflow),
    ]


def judge_nodes(facts: Facts) -> Finding:
    """Whether every node has answered."""
    where = f"the cluster at {facts.cluster.address}" if facts.cluster else "this machine"
    if facts.silent:
        said = "; ".join(f"{name}: {reason}" for name, reason in facts.silent.items())
        return Finding("nodes", "problem", said, "install the same raystage there, and see 'ray status' and its logs")
    return Finding("nodes", "ok", f"{where}: {len(facts.nodes)} answered" if facts.cluster else where)


def judge_versions(facts: Facts) -> Finding:
    """Whether Python and packages are the same everywhere, here included."""
    here, different = facts.driver_versions, []
    for package in sorted({*here, *(each for node in facts.nodes.values() for each in node.versions)}):
        others = {name: node.versions.get(package, "none") for name, node in facts.nodes.items()}
        odd = _by_value({name: version for name, version in others.items() if version != here.get(package, "none")})
        if odd:
            different.append(f"{package} {here.get(package, 'none')} here, {odd}")
    if different:
        return Finding("versions", "problem", "; ".join(different), "install constraints.txt everywhere, with the same Python")
    return Finding("versions", "ok", f"raystage {here['raystage']}, ray {here['ray']}, torch {here['torch']}, Python {here['python']}")


def judge_devices(facts: Facts, device: str) -> Finding:
    """CPUs and accelerators, and whether Ray knows of them."""
    seen = _by_value({name: _devices_of(node) for name, node in facts.nodes.items()})
    for name, node in facts.nodes.items():
        n_of_ray = int(facts.cluster.resources[name].get("GPU", 0)) if facts.cluster else len(node.gpus)
        counts = f"{name}: {n_of_ray} GPUs for Ray, {len(node.gpus)} for torch"
        if n_of_ray > len(node.gpus):
            return Finding("devices", "problem", counts, "mend driver and torch there")
        if n_of_ray < len(node.gpus):
            return Finding("devices", "warning", counts, "start Ray there with --num-gpus")
    if device == "cuda" and not any(node.gpus for node in facts.nodes.values()):
        return Finding("devices", "problem", seen, "runtime.device=cuda needs a GPU: use cpu or auto, or mend the driver")
    return Finding("devices", "ok", seen)


def judge_workers(facts: Facts, config: Config) -> Finding:
    """Whether the workers of the configuration fit."""
    ranges = all_ranges(config)
    low, high = max(workers.low for workers in ranges), max(workers.high for workers in ranges)
    wanted = f"{low}" if low == high else f"{low} to {high}"
    if facts.cluster is None:
        n_cpus = sum(node.n_cpus for node in facts.nodes.values())
        return _warning_if(high > n_cpus, "workers", f"{wanted} wanted, {n_cpus} CPUs here", "they share CPUs: lower runtime.workers")
    seen = f"{wanted} wanted, room for {facts.cluster.room}"
    if low > facts.cluster.room:
        return Finding("workers", "problem", seen, "training would wait: lower runtime.workers, add nodes, or end what runs there")
    return _warning_if(high > facts.cluster.room, "workers", seen, "it begins with fewer, and grows when nodes join")


def judge_place(key: str, place: str, found: PlaceFacts, n_nodes: int) -> Finding:
    """Whether a folder or URI can be written from everywhere, and is the same one."""
    shown = redacted(place)
    if found.unwritable:
        return Finding(key, "problem", f"{shown}: {_by_value(found.unwritable)}", "mend permissions, mounts or credentials on these nodes")
    if found.unread:
        reader, writer = found.unread[0]
        seen = f"{shown}: {reader} does not see what {writer} writes ({len(found.unread)} such pairs)"
        return Finding(key, "problem", seen, f"mount the same folder on every node, or make {key} a URI like s3://bucket/runs")
    return Finding(key, "ok", f"{shown}: writable" if n_nodes == 1 else f"{shown}: writable from {n_nodes} nodes, the same everywhere")


def judge_data(data: bool | str) -> Finding:
    """Whether the corpus is there already."""
    if isinstance(data, str):
        return Finding("data", "problem", data, "mend the keys of data")
    return _warning_if(not data, "data", "prepared" if data else "not prepared yet", "'raystage prepare' does it ahead of the run")


def judge_disks(nodes: Mapping[str, NodeFacts], needed_bytes: int) -> Finding:
    """Free room for checkpoints, caches and Ray's own files."""
    least, name, folder = min((free, name, folder) for name, node in nodes.items() for folder, free in node.free_bytes.items())
    seen = f"at least {_gib(least)} free ({folder}, {name}); checkpoints take {_gib(needed_bytes)}"
    remedy = "free some, keep fewer checkpoints, or name another folder"
    if least < needed_bytes:
        return Finding("disk", "problem", seen, remedy)
    return _warning_if(least < 2 * needed_bytes + _SCARCE_BYTES, "disk", seen, remedy)


def judge_memory(nodes: Mapping[str, NodeFacts], state_bytes: int) -> Finding:
    """Whether weights, gradients and optimizer of the largest stage fit into the memory that is free."""
    remedy = "end what else runs there, or train a smaller model"
    return _least("memory", {name: node.memory_bytes for name, node in nodes.items()}, state_bytes, "problem", remedy)


def judge_shared_memory(nodes: Mapping[str, NodeFacts]) -> Finding:
    """Ray keeps its objects there."""
    known = {name: node.shared_memory_bytes for name, node in nodes.items() if node.shared_memory_bytes is not None}
    if not known:
        return Finding("shared memory", "ok", "none on this system, Ray uses files")
    return _least("shared memory", known, _SHARED_MEMORY_BYTES, "warning", "give the container --shm-size=8g")


def judge_open_files(nodes: Mapping[str, NodeFacts]) -> Finding:
    """Sockets of many workers count, too."""
    least, name = min((node.max_open_files, name) for name, node in nodes.items())
    return _warning_if(least < _OPEN_FILES, "open files", f"{least:,} at least ({name})", "'ulimit -n 65536' before 'ray start'")


def judge_clocks(clocks: Mapping[str, float]) -> Finding:
    """Times in records and in signed requests of stores depend on them."""
    off = {name: seconds for name, seconds in clocks.items() if abs(seconds) > _CLOCK_S}
    if off:
        seen = "; ".join(f"{name}: {abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}" for name, seconds in off.items())
        return Finding("clocks", "problem", seen, "switch on NTP there (timedatectl set-ntp true)")
    return Finding("clocks", "ok", f"within {_CLOCK_S:.0f} s of this machine's")


def judge_token(facts: Facts) -> Finding:
    """Whoever reaches a Ray head without a token runs what they like on every node."""
    open_nodes = [name for name, node in facts.nodes.items() if not node.asks_token]
    if not open_nodes:
        return Finding("token", "ok", "Ray asks for one" if facts.cluster else "the Ray that a run starts here asks for one")
    if facts.cluster is None:
        return Finding("token", "warning", "RAY_AUTH_MODE switches it off for the Ray that a run starts here", "unset RAY_AUTH_MODE")
    remedy = "'ray get-auth-token --generate', the same ~/.ray/auth_token on every node, and RAY_AUTH_MODE=token for 'ray start' and here"
    return Finding("token", "problem", f"none asked for on {', '.join(open_nodes)}: whoever reaches Ray's ports runs code there", remedy)


def judge_dashboard(facts: Facts) -> Finding:
    """Where Ray's dashboard, which takes jobs, listens."""
    address = facts.cluster.dashboard if facts.cluster else None
    if address is None:
        return Finding("dashboard", "ok", "none")
    if is_loopback(address.rpartition(":")[0]):
        return Finding("dashboard", "ok", f"{address}, for its own machine alone")
    if all(node.asks_token for node in facts.nodes.values()):
        return Finding("dashboard", "ok", f"{address}, on the network behind a token")
    remedy = "start the head with --dashboard-host=127.0.0.1, or with token authentication"
    return Finding("dashboard", "problem", f"{address}, on the network without a token", remedy)


def judge_mlflow(mlflow: tuple[str, str | None] | None) -> Finding:
    """Only the driver writes to it."""
    if mlflow is None:
        return Finding("MLflow", "ok", "off (tracking.mlflow)")
    uri, trouble = redacted(mlflow[0]), mlflow[1]
    if trouble is None:
        return Finding("MLflow", "ok", f"{uri}; nodes need no way to it")
    return Finding("MLflow", "problem", f"{uri}: {trouble}", "start it, mend tracking.mlflow_uri, or set tracking.mlflow=false")


def as_json(found: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings for programs."""
    return [dataclasses.asdict(finding) for finding in found]


def _least(name: str, sizes_bytes: Mapping[str, int], needed_bytes: int, level: Level, remedy: str) -> Finding:
    least, where = min((size, where) for where, size in sizes_bytes.items())
    seen = f"{_gib(least)} at least ({where}); {_gib(needed_bytes)} needed"
    return Finding(name, "ok", seen) if least >= needed_bytes else Finding(name, level, seen, remedy)


def _warning_if(is_one: bool, name: str, seen: str, remedy: str) -> Finding:
    return Finding(name, "warning", seen, remedy) if is_one else Finding(name, "ok", seen)


def _devices_of(node: NodeFacts) -> str:
    gpus = [f"{node.gpus.count(name)} x {name}" for name in dict.fromkeys(node.gpus)]
    return ", ".join([f"{node.n_cpus} CPUs", *gpus, *([f"PJRT {node.pjrt}"] if node.pjrt else [])])


def _by_value(values: Mapping[str, str]) -> str:
    """Machines of the same value together."""
    machines: dict[str, list[str]] = {}
    for name, value in values.items():
        machines.setdefault(value, []).append(name)
    return "; ".join(f"{value} on {', '.join(names) if len(names) < 4 else f'{len(names)} nodes'}" for value, names in machines.items())


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / _GIB:.1f} GiB"
