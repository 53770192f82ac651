"""The nodes of a Ray cluster. Free resources of a node and its draining are in no public API of Ray 2.60: the two calls are here."""

import ray
from ray._private import state

from raystage.runtime.capacity import Node


def host_names() -> set[str]:
    """The machines of the nodes that live; several nodes may be on one."""
    return {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}


def ray_nodes() -> list[Node]:
    """The nodes that live."""
    free, leaving = state.available_resources_per_node(), state.state.get_draining_nodes()
    return [Node(node["NodeID"], free.get(node["NodeID"], {}), node["NodeID"] in leaving) for node in ray.nodes() if node["Alive"]]
