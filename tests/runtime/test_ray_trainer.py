"""What is left out of Ray Train is still there to be left out, and nothing else is."""

from ray.train import RunConfig, ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raystage.runtime.ray_trainer import LeanTrainer, RoomIsThere


def _callbacks(kind: type[DataParallelTrainer]) -> list[str]:
    trainer = kind(lambda: None, scaling_config=ScalingConfig(num_workers=1), run_config=RunConfig(name="lean"))
    return [type(callback).__name__ for callback in trainer._create_default_callbacks()]


def test_two_callbacks_are_left_out() -> None:
    usual, lean = _callbacks(DataParallelTrainer), _callbacks(LeanTrainer)
    assert [name for name in usual if name not in lean] == ["PlacementGroupCleanerCallback", "DatasetsCallback"]
    assert [name for name in lean if name not in usual] == []


def test_a_group_asks_the_autoscaler_for_nothing_and_is_as_large_as_it_was_told() -> None:
    """The usual policy would start an actor for its request, and here there is no Ray to start it."""
    policy = RoomIsThere(ScalingConfig(num_workers=3, resources_per_worker={"CPU": 2}))  # type: ignore[arg-type]
    policy.after_controller_start(None)  # type: ignore[arg-type]
    decision = policy.make_decision_for_non_running_worker_group()
    assert (decision.num_workers, decision.resources_per_worker) == (3, {"CPU": 2})  # type: ignore[attr-defined]
    policy.before_controller_abort()
    assert "_maybe_send_resource_request" in vars(FixedScalingPolicy.__mro__[1])
