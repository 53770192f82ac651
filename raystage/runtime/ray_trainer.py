"""Ray Train's trainer without the helpers that runs of raystage have no use for.

Each is a process that imports Ray Train on the cores on which workers begin, and two of them are waited for. What says so is internal
API of Ray 2.60, used here alone: callbacks of the controller, and the policy by which it asks for nodes.
"""

from typing import Any

from ray.train import Result
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class LeanTrainer(DataParallelTrainer):
    """Without data sets of Ray Data; without the actor that frees placement groups of a dead controller, which `free_resources` does; and
    without requests to an autoscaler, since a group begins where there is room for it."""

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        without = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, without)]

    def _initialize_and_run_controller(self, **settings: Any) -> Result:
        return super()._initialize_and_run_controller(**{**settings, "scaling_policy": RoomIsThere(self.scaling_config)})  # type: ignore[arg-type]


class RoomIsThere(FixedScalingPolicy):
    """Asks for nothing: a cluster has one request, and another's would be replaced."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass
