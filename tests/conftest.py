"""Order of the tests: the longest files first, so that of two processes none is left alone with them at the end; and each leaves float32
products with the library that it found them with."""

from collections.abc import Iterator

import pytest
import torch

from raystage.devices import float32_products

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


@pytest.fixture(autouse=True)
def products_as_torch_has_them() -> Iterator[None]:
    """A run in this process sets them for all that comes after it."""
    yield
    if float32_products._chosen != float32_products._BY_MKL or torch.get_float32_matmul_precision() == float32_products._BY_ONEDNN:
        float32_products._chosen = float32_products._BY_MKL
        torch.set_float32_matmul_precision(float32_products._BY_MKL)
