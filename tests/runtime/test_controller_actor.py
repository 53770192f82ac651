"""Where the controller lives, on a cluster of two nodes."""

from pathlib import Path

import pytest
import ray
from ray._private import state
from ray.cluster_utils import Cluster

from raystage.runtime.controller_actor import start_controller
from raystage.training.policy import policy_of
from tests.training.made_run import configure

pytestmark = pytest.mark.long


def test_the_controller_lives_beside_the_driver(tmp_path: Path) -> None:
    """Ray alone would spread actors without CPUs over the nodes, those that are taken away too."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        here = ray.get_runtime_context().get_node_id()
        actors = [start_controller(f"controller-{i}", policy_of(configure(tmp_path))) for i in range(4)]
        ray.get([actor.workers.remote() for actor in actors])
        places = {actor["Address"]["NodeID"] for actor in state.state.actor_table(None, None, None).values()}
        assert places == {here}
    finally:
        ray.shutdown()
        cluster.shutdown()
