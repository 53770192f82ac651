"""Twenty steps are those of a plain loop that has nothing of raystage's step: transformers' model with eager attention, whole
logits, an AdamW that is not fused, torch's own clipping."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raystage.config import Config
from raystage.data.order import RowOrder
from raystage.models import head_loss
from raystage.models.family import build_model, get_family
from raystage.tracking.records import RunRecords
from raystage.training.job import Job
from raystage.training.policy import plan_of
from tests.training.made_run import configure, corpus_of, losses, train_here

PLAN = ["training.duration=20 steps", "pacing={rule: constant}", "training.schedule.warmup_steps=5", "validation.every_steps=100"]
LONG = ["model.context_length=528", "training.batch_tokens=1056", "training.micro_batch_tokens=528"]  # attention by another library there
LLAMA = ["model.family=llama", "model.n_kv_head=2"]
BY_INDUCTOR = pytest.param(
    ["training.compile=true"],
    marks=[pytest.mark.long, pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++")],
)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a micro-batch comes in several."""
    monkeypatch.setattr(head_loss, "_LOGITS_AT_ONCE", 0)
    monkeypatch.setattr(head_loss, "_WEIGHTS_AT_ONCE", 1)


WAYS = [[], LLAMA, LONG, ["training.activation_checkpointing=full"], BY_INDUCTOR]


@pytest.mark.parametrize("overrides", WAYS)
def test_losses_and_gradient_norms_are_those_of_a_plain_loop(overrides: list[str], tmp_path: Path) -> None:
    config = configure(tmp_path, [*PLAN, *overrides])
    ours = train_here(config)
    found, norms = _train_plainly(config, ours)
    assert len(found) == 20
    assert found[-1] < 0.8 * found[0], "it learns, or they would be alike for nothing"
    assert [loss for _, loss in losses(ours)] == pytest.approx(found, rel=1e-5)
    assert [record["grad_norm"] for record in ours.train] == pytest.approx(norms, rel=1e-3)


@pytest.mark.parametrize("overrides", WAYS)
def test_in_bf16_losses_lie_far_nearer_to_those_in_float32_than_another_seeds(overrides: list[str], tmp_path: Path) -> None:
    config = configure(tmp_path, [*PLAN, *overrides, "training.precision=bf16"])
    ours = train_here(config)
    exact = np.array(_train_plainly(config, ours)[0])
    half = np.array([loss for _, loss in losses(ours)])
    other = np.array([loss for _, loss in losses(train_here(configure(tmp_path, [*PLAN, *overrides, "name=other", "seed=5"])))])
    gap, spread = np.abs(half - exact).mean(), np.abs(other - exact).mean()
    assert 0 < gap < 0.1 * spread


def _train_plainly(config: Config, ours: RunRecords) -> tuple[list[float], list[float]]:
    """Losses and gradient norms; rates are those that the run has recorded."""
    corpus, length = corpus_of(config), config.model.context_length
    spec = Job(config, corpus, Path(), 1).spec(plan_of(config).shapes()[-1])
    raystages = build_model(spec, config.seed)
    settings = get_family(spec.family).config(spec)
    settings._attn_implementation = "eager"
    model = type(raystages)(settings)
    model.load_state_dict(raystages.state_dict())
    matrices, others = [p for p in model.parameters() if p.dim() >= 2], [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.training.optimizer.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=config.training.optimizer.eps, foreach=False, fused=False)
    rows, n_rows = corpus.train_rows(length), config.training.batch_tokens // length
    order, found, norms = RowOrder(len(rows), config.seed), list[float](), list[float]()
    for step, record in enumerate(ours.train):
        tokens = torch.from_numpy(rows[order.rows(np.arange(step * n_rows, (step + 1) * n_rows))])
        loss = F.cross_entropy(model(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.optimizer.clip_norm or 0.0)))
        for group in optimizer.param_groups:
            group["lr"] = record["lr"]
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found, norms
