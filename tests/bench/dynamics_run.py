"""One run of the bench of growth's dynamics: trained here, its validation curve and last state kept in the folder."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raystage.config import Config, load
from raystage.config.sizes import vocab_size_of
from raystage.data.batch import read_batch
from raystage.data.corpus import Corpus
from raystage.data.order import RowOrder
from raystage.data.place import Place
from raystage.data.prepare import prepare
from raystage.data.step_cut import cut
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.evaluation.loss import validation_loss
from raystage.growth import TrainingTensors, grow
from raystage.models.spec import ModelSpec
from raystage.pacing.stage import Shape
from raystage.studies.equal_loss import Curve
from raystage.training.machinery import Machinery
from raystage.training.optimizer import set_learning_rate
from raystage.training.stage_model import method_of, spec_of
from raystage.training.state import assemble
from raystage.training.step import train_step
from tests.bench.dynamics_arms import Arm, Settings

_CONTEXT, _LAYERS, _CHANNELS = 128, 2, 64  # the quickstart's target


def prepared(settings: Settings, seed: int = 0) -> tuple[Config, Corpus]:
    """The quickstart's text and target, and the corpus, made where it is not there yet."""
    config = load("tune_configs/quickstart.yaml", [f"seed={seed}", f"training.batch_tokens={settings.batch_tokens}"])
    return config, prepare(config.data)


def curve_of(arm: Arm, settings: Settings, folder: Path) -> Curve | None:
    """What a finished run left; None where there is none, or one of other settings."""
    path = folder / f"{arm.name}.json"
    if not path.exists():
        return None
    tree = json.loads(path.read_text())
    if tree["settings"] != dataclasses.asdict(settings):
        return None
    return Curve(np.array(tree["tokens"], dtype=np.float64), np.array(tree["losses"]))


def run_arm(arm: Arm, settings: Settings, folder: Path) -> str:
    """Trains one run on one thread; returns its name. The curve is written last, so that one that stopped before starts anew."""
    torch.set_num_threads(1)
    config, corpus = prepared(settings, arm.seed)
    device, tokens = pick_device("cpu"), settings.source_steps * settings.batch_tokens if arm.source else 0
    machinery = _start(arm, config, corpus, folder)
    rows, held_out = corpus.train_rows(_CONTEXT), corpus.validation_rows(_CONTEXT)
    order = RowOrder(len(rows), config.seed)

    def validate() -> tuple[int, float]:
        return tokens, validation_loss(machinery.trainee, held_out, settings.validation_rows, device, Ranks(), 32, None)

    points = [validate()]
    for step in range(1, arm.steps(settings) + 1):
        set_learning_rate(machinery.optimizer, arm.learning_rate(settings, step))
        cut_ = cut(Place(cursor=tokens), settings.batch_tokens // _CONTEXT, _CONTEXT, _CONTEXT, "segment")
        batch = read_batch(rows, order, cut_, slice(None), _CONTEXT)
        train_step(machinery, batch, cut_.tokens, Ranks(), device, config.training, None)
        tokens = cut_.place_after.cursor
        if step % settings.validate_every_steps == 0:
            points.append(validate())
    if arm.kind and not arm.variant:
        torch.save(dataclasses.asdict(machinery.tensors()), folder / f"{arm.name}.pt")
    seen, losses = zip(*points, strict=True)
    _write(folder / f"{arm.name}.json", {"settings": dataclasses.asdict(settings), "tokens": seen, "losses": losses})
    return arm.name


def _start(arm: Arm, config: Config, corpus: Corpus, folder: Path) -> Machinery:
    """A fresh model, or the source's last state grown."""
    target = _spec(config, corpus, _LAYERS, _CHANNELS)
    source = target
    if arm.kind:
        source = _spec(config, corpus, _LAYERS // (1 + (arm.kind == "depth")), _CHANNELS // (1 + (arm.kind == "width")))
    device = pick_device("cpu")
    if arm.source is None:
        return assemble(source, config, device, Ranks())
    state = TrainingTensors(**torch.load(folder / f"{arm.source.name}.pt", weights_only=True))
    grown = grow(state, source, target, method_of(config, 1))
    if arm.variant == "moments reset":
        grown = dataclasses.replace(grown, states={})
    return assemble(target, config, device, Ranks(), grown)


def _spec(config: Config, corpus: Corpus, n_layer: int, d_model: int) -> ModelSpec:
    return spec_of(
        config, Shape(_CONTEXT, n_layer, d_model, config.training.batch_tokens), vocab_size_of(config, corpus.vocab_size), corpus.eot_id
    )


def _write(path: Path, tree: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(tree))
    os.replace(temporary, path)
