"""Order of the tests: the longest files first, so that of two processes none is left alone with them at the end."""

import pytest

LONGEST = (
    "test_elastic.py",
    "test_ray_run.py",
    "test_search.py",
    "test_bad_inputs.py",
    "test_resume.py",
    "test_sharded_run.py",
    "test_secrets.py",
    "test_rehearsal.py",
    "test_ray_prepare.py",
    "test_local.py",
    "test_sync.py",
    "test_mlflow_server.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
