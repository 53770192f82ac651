"""The configuration of a run that goes on until its bench is over."""

from pathlib import Path

from raystage.config import Config
from tests.bench.peer_size import PeerSize
from tests.training.made_run import configure

_FOR_EVER = 1_000_000  # steps


def endless(folder: Path, name: str, size: PeerSize, check_every_steps: int, *overrides: str) -> Config:
    """No change, no validation, no checkpoint; one micro-batch a step. Its text and its run lie in `folder`."""
    model = {"context_length": size.length, "n_layer": size.n_layer, "n_head": size.n_head, "d_model": size.d_model}
    return configure(
        folder,
        [
            f"name={name}",
            *(f"model.{key}={value}" for key, value in (model | {"vocab_size": size.vocab_size}).items()),
            f"pacing={{rule: constant, check_every_steps: {check_every_steps}}}",
            f"training.duration={_FOR_EVER} steps",
            f"training.batch_tokens={size.tokens_a_step}",
            f"training.micro_batch_tokens={size.tokens_a_step}",
            f"training.precision={size.precision}",
            f"validation.every_steps={_FOR_EVER}",
            f"checkpoint={{every_steps: {_FOR_EVER}, every_minutes: null}}",
            f"runtime.device={size.device}",
            *overrides,
        ],
    )
