"""The files of `ray up`, as Ray itself loads and checks them."""

import copy

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.manifests import Document, ray_up_configs

CONFIGS = ray_up_configs()


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Document:
    return copy.deepcopy(CONFIGS[request.param])


def test_all_that_was_promised_is_there() -> None:
    assert set(CONFIGS) == {"aws_gpu.yaml", "gcp_gpu.yaml", "gcp_tpu.yaml"}


def test_ray_takes_it(config: Document) -> None:
    validate_config(prepare_config(config))


def test_ray_refuses_a_key_that_it_does_not_know(config: Document) -> None:
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config(config | {"max_worker": 1}))


def test_ray_asks_for_its_token_and_the_dashboard_is_on_loopback(config: Document) -> None:
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    (start,) = (command for command in config["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in start
    assert "-e RAY_JOB_STOP_WAIT_TIME_S=120" in config["docker"]["run_options"], "time for a checkpoint"


def test_workers_are_on_spot_machines_and_the_head_with_its_drivers_is_not(config: Document) -> None:
    (start,) = (command for command in config["head_start_ray_commands"] if "ray start" in command)
    assert "--num-cpus=0" in start
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert not _is_spot(head["node_config"])
    assert any(_is_spot(node["node_config"]) for node in types.values())
    assert config["idle_timeout_minutes"] <= 10


def _is_spot(node: Document) -> bool:
    markets = node.get("InstanceMarketOptions", {}), node.get("scheduling", {}), node.get("schedulingConfig", {})
    return markets[0].get("MarketType") == "spot" or markets[1].get("provisioningModel") == "SPOT" or markets[2].get("spot") is True
