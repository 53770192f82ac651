"""The function that Ray Train's controller hands to the workers.

The controller imports it too, before any worker can begin, and never trains: what only workers need is imported there.
"""

from typing import Any

from raystage.training.ports import Ending


def begin_worker(settings: dict[str, Any]) -> Ending:
    """Runs on every worker; returns how it ended."""
    from raystage.runtime.ray_worker import train_worker

    return train_worker(settings)
