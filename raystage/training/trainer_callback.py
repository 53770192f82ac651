"""Sequence-length pacing for the Trainer of transformers: a callback that cuts the batches its model sees."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from raystage.data.batch import IGNORED
from raystage.data.cutting import segment, truncate


class PacedLength(TrainerCallback):
    """Trains at `length_at(progress)` tokens a sequence; progress is the share of the steps done, from 0 to below 1.

    Causal language models only, with `labels` in the batch. `truncate` keeps the head of every sequence (`keep_end_token`: and
    its last token), `segment` makes several of it. A batch that is no longer than the length, and evaluation, stay as they are.
    A loss that the Trainer averages over all the targets of a step is averaged over those kept: each micro-batch (and process)
    keeps its weight in the step. Logs of training get `seq_len_tokens`; the Trainer's own counts of tokens and FLOPs go on
    counting batches as they were before.

    The model is cut for between the begin and the end of training. Where training ends with an exception, the next training
    replaces the cutting, or `remove` ends it. Raises ValueError, in the first step that cannot be cut.
    """

    def __init__(
        self, length_at: Callable[[float], int], mode: Literal["truncate", "segment"] = "truncate", keep_end_token: bool = False
    ) -> None:
        if mode not in ("truncate", "segment"):
            raise ValueError(f"mode={mode!r}: 'truncate' or 'segment'")
        if keep_end_token and mode == "segment":
            raise ValueError("keep_end_token=True: segments keep every token already; leave it out")
        self._length_at = length_at
        self._mode = mode
        self._keep_end_token = keep_end_token
        self._length: int | None = None
        self._handle: RemovableHandle | None = None

    def remove(self) -> None:
        """Leaves the model as it was; for when training ended with an exception."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._length = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Puts the cutting in front of the model."""
        self.remove()
        model: nn.Module = kwargs["model"]
        self._handle = model.register_forward_pre_hook(self._before_forward, with_kwargs=True)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The length of the coming step, over all its micro-batches."""
        progress = state.global_step / state.max_steps
        length = self._length_at(progress)
        if isinstance(length, bool) or not isinstance(length, int) or length < 2:
            raise ValueError(f"length_at({progress:.4g}) gave {length!r}: a whole number of tokens, 2 or more")
        self._length = length

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds the length of the step before, for the log history and for callbacks that come after this one."""
        if logs is not None and "loss" in logs and self._length is not None:
            logs["seq_len_tokens"] = self._length
            state.log_history[-1]["seq_len_tokens"] = self._length

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Takes the cutting away."""
        self.remove()

    def _before_forward(
        self, model: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not model.training or self._length is None:
            return None
        if named.get("labels") is None:
            raise ValueError(
                "PacedLength: the model gets no labels; leave out label_smoothing_factor and compute_loss_func, "
                "which take them away, and let the data collator give some"
            )
        batch = {key: value for key, value in named.items() if key != "num_items_in_batch"}
        cut = segment(batch, self._length) if self._mode == "segment" else truncate(batch, self._length, self._keep_end_token)
        n_items = named.get("num_items_in_batch")
        if n_items is not None:
            cut["num_items_in_batch"] = n_items * _share(_n_targets(cut), _n_targets(batch))
        return positional, cut


def _n_targets(batch: dict[str, Any]) -> Tensor:
    """Tokens that a causal model is asked for, as the Trainer counts them."""
    targets = batch["labels"][:, 1:] if batch.get("shift_labels") is None else batch["shift_labels"]
    return (targets != IGNORED).sum()


def _share(n_kept: Tensor, n_before: Tensor) -> Tensor:
    """n_kept / n_before; 1 where nothing is kept, since a loss of 0 is then divided by it."""
    return (n_kept / n_before.clamp(min=1)).masked_fill(n_kept == 0, 1.0)
