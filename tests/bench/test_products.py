"""The floor counts what the step computes."""

from pathlib import Path

from raystage.models.count import flops_per_token
from raystage.training.policy import plan_of
from raystage.training.stage_model import spec_of
from tests.bench.endless_run import endless
from tests.bench.peer_size import small
from tests.bench.products import shapes


def test_the_products_of_a_step_are_its_flops(tmp_path: Path) -> None:
    size = small(256)
    config = endless(tmp_path, "size", size, 1)
    spec = spec_of(config, plan_of(config).shapes()[-1], size.vocab_size, eot_id=0)
    flops = 0
    for (*batch, m, k, n), times in shapes(size):
        flops += 3 * 2 * m * k * n * times * (batch[0] if batch else 1)
    assert flops == size.tokens_a_step * flops_per_token(spec, size.length)
