"""`raystage doctor`: facts of this machine or of a cluster, gathered in bounded time, and the findings from them."""

import socket
import tempfile
import threading
import time
from pathlib import Path

import ray

from raystage.config import Config, ConfigError
from raystage.data.prepare import is_prepared
from raystage.models.count import matmul_parameters
from raystage.runtime.doctor_facts import Cluster, Facts, clock, clock_offset_s, node_facts
from raystage.runtime.doctor_findings import Finding, Needs, findings
from raystage.runtime.doctor_nodes import Nodes, RayNodes, ThisMachine
from raystage.runtime.doctor_place import try_place
from raystage.runtime.hardware import hardware_of
from raystage.runtime.ray_cluster import cluster_address, connect, dashboard_address
from raystage.runtime.ray_nodes import ray_nodes
from raystage.storage.address import is_uri
from raystage.storage.faults import StorageError
from raystage.storage.patience import Patience
from raystage.tracking import mlflow_client
from raystage.tracking.provenance import versions
from raystage.training.target_cost import target_spec

_BYTES_A_PARAMETER = 12  # weight and the two moments of AdamW, float32
_GRADIENT_BYTES = 4
_CONNECT_S = 5.0
_STORE_S = 5.0


def examine(config: Config, timeout_s: float) -> list[Finding]:
    """The findings. `timeout_s`: for each question to all nodes. Raises ConfigError for an address that is none."""
    address = cluster_address(config)
    if address is not None and not ray.is_initialized() and (trouble := _unreachable(address)):
        return [Finding("nodes", "problem", f"{address}: {trouble}", "start the head ('ray start --head'), or mend runtime.address")]
    needs = _needs(config)
    if address is None:
        return findings(gather(config, ThisMachine(socket.gethostname()), None), config, needs)
    was_joined = ray.is_initialized()
    try:
        connect(config)
    except ConfigError as error:
        return [Finding("nodes", "problem", str(error), "see 'ray status' there; where it asks for a token, set RAY_AUTH_TOKEN here")]
    try:
        nodes = RayNodes(timeout_s)
        resources = {name: node["Resources"] for name, node_id in nodes.ids.items() for node in ray.nodes() if node["NodeID"] == node_id}
        return findings(gather(config, nodes, Cluster(address, resources, _room(config), dashboard_address())), config, needs)
    finally:
        if not was_joined:
            ray.shutdown()


def gather(config: Config, nodes: Nodes, cluster: Cluster | None) -> Facts:
    """What there is to know, from the nodes and from here."""
    places = {"storage": _absolute(config.storage), "data.cache_dir": _absolute(config.data.cache_dir)}
    caches = [config.storage_cache] * is_uri(config.storage) + [config.data.node_cache_dir] * is_uri(config.data.cache_dir)
    folders = [*(place for place in places.values() if not is_uri(place)), *map(_absolute, caches), f"{tempfile.gettempdir()}/ray"]
    facts = nodes.each(node_facts, folders)
    tried = {key: (place, try_place(nodes, place)) for key, place in places.items()}
    before_s = time.time()
    there_s = nodes.each(clock)
    after_s = time.time()
    return Facts(
        cluster=cluster,
        driver_versions=versions(),
        nodes=facts,
        silent=nodes.silent,
        places=tried,
        clocks={name: clock_offset_s(before_s, seconds, after_s) for name, seconds in there_s.items()},
        mlflow=_mlflow(config) if config.tracking.mlflow else None,
        data=_data(config),
    )


def _room(config: Config) -> int:
    """Workers that fit now; none where the cluster has not the devices at all, which is a finding of its own."""
    try:
        return hardware_of(config).room(ray_nodes())
    except ConfigError:
        return 0


def _needs(config: Config) -> Needs:
    spec = target_spec(config)
    n_parameters = matmul_parameters(spec) + spec.vocab_size * spec.d_model * (not spec.tied)
    n_checkpoints = config.checkpoint.keep_last + config.checkpoint.keep_best + 2  # the one at the end, and the one that is being written
    return Needs(n_parameters * (_BYTES_A_PARAMETER + _GRADIENT_BYTES), n_parameters * _BYTES_A_PARAMETER * n_checkpoints)


def _absolute(place: str) -> str:
    return place if is_uri(place) else str(Path(place).expanduser().absolute())


def _unreachable(address: str) -> str | None:
    """Why nothing answers at HOST:PORT: Ray itself waits for long, and says it in many lines."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _data(config: Config) -> bool | str:
    try:
        return is_prepared(config.data, Patience(_STORE_S))
    except (ConfigError, StorageError) as error:
        return str(error)


def _mlflow(config: Config) -> tuple[str, str | None]:
    """The store, and what is wrong with it. One that is not there yet is made by the first run, if its folder can be written."""
    uri = mlflow_client.absolute_uri(config.tracking)
    if mlflow_client.is_missing_file(uri):
        folder = Path(uri.removeprefix("sqlite:///")).parent
        return uri, None if folder.is_dir() else f"{folder} is no folder"
    found: list[str | None] = []
    asking = threading.Thread(target=lambda: found.append(mlflow_client.ask(uri)), daemon=True)
    asking.start()
    asking.join(30.0)
    return uri, found[0] if found else "no answer in time"
