"""What a training process is told before it starts."""

import dataclasses
import functools
from pathlib import Path

from raystage.config.duration import Duration, parse_duration
from raystage.config.schema import Config
from raystage.config.sizes import vocab_size_of
from raystage.data.corpus import Corpus
from raystage.models.spec import ModelSpec
from raystage.pacing.stage import Shape
from raystage.training.checkpoint import Bring, bring_nothing
from raystage.training.stage_model import spec_of


@dataclasses.dataclass(frozen=True)
class Job:
    """One attempt at a run: its configuration, prepared corpus and folder. `attempt` counts from 1; `bring`: see CheckpointStore."""

    config: Config
    corpus: Corpus
    run_dir: Path
    attempt: int
    bring: Bring = bring_nothing

    @functools.cached_property
    def duration(self) -> Duration:
        return parse_duration(self.config.training.duration)

    @property
    def attention_eot_id(self) -> int | None:
        """The token at which attention stops, if it does."""
        return None if self.config.data.attend_across_documents else self.corpus.eot_id

    def spec(self, shape: Shape) -> ModelSpec:
        return spec_of(self.config, shape, vocab_size_of(self.config, self.corpus.vocab_size), self.corpus.eot_id)
