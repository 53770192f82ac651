"""PacedLength in a real Trainer: what the model sees, what it learns, and that nothing is left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from raystage.data.cutting import segment, truncate
from raystage.training.trainer_callback import PacedLength

pytest.importorskip("accelerate", reason="the Trainer needs it")

WIDTH, STEPS, LR = 16, 4, 0.1
Rows = dict[str, Tensor]
CUTS: dict[str, Callable[[Rows, int], Rows]] = {"truncate": truncate, "segment": segment}


def length_at(progress: float) -> int:
    return 8 if progress < 0.5 else WIDTH


def tiny_model(loss_type: str | None = "ForCausalLM") -> GPT2LMHeadModel:
    """GPT-2's own loss type is None, with which the Trainer takes the first token of a sequence for a target."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=64, n_positions=WIDTH, bos_token_id=0, eos_token_id=0)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    model = GPT2LMHeadModel(config)
    model.loss_type = loss_type  # type: ignore[assignment]
    return model


def made_rows(n_rows: int, padded: bool) -> list[Rows]:
    """Rows of random tokens; `padded`: of unlike numbers of them."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 64, (n_rows, WIDTH), generator=generator)
    n_real = torch.tensor([3 + (5 * i) % 12 if padded else WIDTH for i in range(n_rows)])
    mask = (torch.arange(WIDTH) < n_real[:, None]).long()
    labels = ids.masked_fill(mask == 0, -100)
    return [{"input_ids": ids[i], "attention_mask": mask[i], "labels": labels[i]} for i in range(n_rows)]


class Seen(TrainerCallback):
    """The shapes of input that reach the model, in training and in evaluation."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.training: list[tuple[int, ...]] = []
        self.evaluation: list[tuple[int, ...]] = []
        model.transformer.register_forward_pre_hook(self._note, with_kwargs=True)  # type: ignore[union-attr]

    def _note(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        (self.training if module.training else self.evaluation).append(tuple(ids.shape))


def made_trainer(
    folder: Path, model: GPT2LMHeadModel, paced: PacedLength, rows: list[Rows], accumulation: int = 1, **settings: Any
) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        learning_rate=LR,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        train_sampling_strategy="sequential",
        disable_tqdm=True,
        **settings,
    )
    return Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:4], callbacks=[paced])


def stacked(rows: list[Rows]) -> Rows:
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def train_by_hand(model: GPT2LMHeadModel, rows: list[Rows], accumulation: int, cut: Callable[[Rows, int], Rows]) -> list[float]:
    """The loss of every step: the mean over all targets kept of all micro-batches."""
    losses = []
    for step in range(STEPS):
        chosen = rows[step * 2 * accumulation : (step + 1) * 2 * accumulation]
        batch = cut(stacked(chosen), length_at(step / STEPS))
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 64), batch["labels"][:, 1:].reshape(-1), ignore_index=-100)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(LR * parameter.grad)
        model.zero_grad()
        losses.append(loss.item())
    return losses


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("mode", ["truncate", "segment"])
@pytest.mark.parametrize(("accumulation", "padded"), [(1, False), (1, True), (2, False)])
def test_it_trains_as_a_loop_that_cuts_by_hand(tmp_path: Path, mode: Any, accumulation: int, padded: bool) -> None:
    rows = made_rows(STEPS * 2 * accumulation, padded)
    model, by_hand = tiny_model(), tiny_model()
    seen = Seen(model)
    trainer = made_trainer(tmp_path, model, PacedLength(length_at, mode), rows, accumulation)
    trainer.train()
    n_rows = 4 if mode == "segment" else 2
    assert seen.training == [(n_rows, 8)] * 2 * accumulation + [(2, WIDTH)] * 2 * accumulation
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["seq_len_tokens"] for entry in logged] == [8, 8, WIDTH, WIDTH]
    expected = train_by_hand(by_hand, rows, accumulation, CUTS[mode])
    assert [entry["loss"] for entry in logged] == pytest.approx(expected, abs=1e-5)
    assert same_weights(model, by_hand)


def test_the_end_token_is_kept_when_asked_for(tmp_path: Path) -> None:
    def ended(batch: Rows, length: int) -> Rows:
        return truncate(batch, length, keep_end_token=True)

    rows = made_rows(STEPS * 2, True)
    model, by_hand = tiny_model(), tiny_model()
    made_trainer(tmp_path, model, PacedLength(length_at, keep_end_token=True), rows).train()
    train_by_hand(by_hand, rows, 1, ended)
    assert same_weights(model, by_hand)


def test_a_trainer_that_counts_otherwise_counts_alike_at_every_length(tmp_path: Path) -> None:
    rows = made_rows(STEPS * 2, False)
    model, by_hand = tiny_model(loss_type=None), tiny_model()
    trainer = made_trainer(tmp_path, model, PacedLength(length_at), rows)
    trainer.args.learning_rate = 0.0
    trainer.train()
    means = [by_hand(**truncate(stacked(rows[2 * i : 2 * i + 2]), length_at(i / STEPS))).loss.item() for i in range(STEPS)]
    expected = [mean * (WIDTH - 1) / WIDTH for mean in means]
    assert [entry["loss"] for entry in trainer.state.log_history[:STEPS]] == pytest.approx(expected, abs=1e-5)


def test_unlike_micro_batches_keep_their_weight_in_the_step(tmp_path: Path) -> None:
    rows = made_rows(STEPS * 4, True)
    model, by_hand = tiny_model(), tiny_model()
    trainer = made_trainer(tmp_path, model, PacedLength(lambda _: 8), rows, accumulation=2)
    trainer.args.max_steps = 1
    trainer.train()
    micro_batches = [stacked(rows[:2]), stacked(rows[2:4])]
    n_targets = [int((batch["labels"][:, 1:] != -100).sum()) for batch in micro_batches]
    assert n_targets[0] != n_targets[1]
    means = [by_hand(**truncate(batch, 8)).loss.item() for batch in micro_batches]
    expected = sum(n * mean for n, mean in zip(n_targets, means, strict=True)) / sum(n_targets)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-5)


def test_evaluation_is_never_cut_and_nothing_is_left_behind(tmp_path: Path) -> None:
    model = tiny_model()
    seen = Seen(model)
    trainer = made_trainer(tmp_path, model, PacedLength(lambda _: 4), made_rows(STEPS * 2, False), eval_strategy="steps", eval_steps=2)
    trainer.train()
    assert {shape[1] for shape in seen.training} == {4}
    assert len(seen.evaluation) >= STEPS // 2
    assert {shape[1] for shape in seen.evaluation} == {WIDTH}
    assert not model._forward_pre_hooks
    assert all("seq_len_tokens" not in entry for entry in trainer.state.log_history if "eval_loss" in entry)


def test_a_micro_batch_of_which_no_target_is_left_teaches_nothing(tmp_path: Path) -> None:
    rows = made_rows(STEPS * 2, False)
    for row in rows:
        row["labels"][:4] = -100
    model = tiny_model()
    trainer = made_trainer(tmp_path, model, PacedLength(lambda _: 4), rows, logging_nan_inf_filter=False)
    trainer.train()
    assert [entry["loss"] for entry in trainer.state.log_history[:STEPS]] == [0.0] * STEPS
    assert same_weights(model, tiny_model())


def test_training_that_raised_is_cleared_away_by_hand_or_by_the_next(tmp_path: Path) -> None:
    def raises_later(progress: float) -> int:
        if progress > 0.4:
            raise RuntimeError("stop here")
        return 4

    model = tiny_model()
    paced = PacedLength(raises_later)
    trainer = made_trainer(tmp_path, model, paced, made_rows(STEPS * 2, False))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="stop here"):
            trainer.train()
        assert len(model._forward_pre_hooks) == 1
    paced.remove()
    assert not model._forward_pre_hooks


@pytest.mark.parametrize(
    ("settings", "length", "message"),
    [({}, 1, r"length_at\(0\) gave 1"), ({}, 8.0, r"gave 8\.0"), ({"label_smoothing_factor": 0.1}, 8, "label_smoothing_factor")],
)
def test_what_cannot_be_cut_is_said(tmp_path: Path, settings: dict[str, Any], length: Any, message: str) -> None:
    trainer = made_trainer(tmp_path, tiny_model(), PacedLength(lambda _: length), made_rows(STEPS * 2, False), **settings)
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="mode='recycle'"):
        PacedLength(length_at, "recycle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="keep_end_token"):
        PacedLength(length_at, "segment", keep_end_token=True)
