"""Records as MLflow's metrics, parameters and tags: plain values in, MLflow's entities out."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from raystage.config import flat
from raystage.tracking.decision_text import sentence
from raystage.tracking.records import Record

if TYPE_CHECKING:
    from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

T = TypeVar("T")

_METRIC_KEYS = {
    "train": [
        "loss",
        "lr",
        "grad_norm",
        "slope",
        "tokens_per_s",
        "mfu",
        "seq_len_tokens",
        "batch_tokens",
        "n_layer",
        "d_model",
        "n_parameters",
        "tokens_seen",
        "flops",
        "stage",
        "world_size",
    ],
    "val": ["val_loss"],
}
# once more with the tokens seen in the place of the step: runs whose batches differ are compared over tokens
_BY_TOKENS = {"train": {"loss": "loss_by_tokens"}, "val": {"val_loss": "val_loss_by_tokens"}}
# most runs have none of these, and a metric costs space at every step
_IF_ANY = {"train": ["tokens_dropped", "tokens_waiting", "tokens_recycled", "tokens_undone", "probe_loss", "second_moment"]}
_MAX_PARAM_CHARS = 6000
_MAX_TAG_CHARS = 8000
_MAX_DIGEST_CHARS = 36
_ELLIPSIS = "..."


def metrics_of(record: Record, run_start_ms: int) -> "list[Metric]":
    """A record's metrics at its training step, without those it has no value for.

    Their time is the run's start plus the training time: the same record always gives the same metric, and MLflow's
    databases keep one of two equal ones.
    """
    from mlflow.entities import Metric

    kind = str(record["kind"])
    if kind not in (*_METRIC_KEYS, "system"):
        return []
    step, time_ms = record["step"], run_start_ms + round(1000 * record["time_s"])
    if kind == "system":
        return [Metric(f"system/{key}", float(value), time_ms, step) for key, value in record["usage"].items()]
    keys = [key for key in _METRIC_KEYS.get(kind, []) if record.get(key) is not None]
    keys += [key for key in _IF_ANY.get(kind, []) if record.get(key)]
    by_step = [Metric(key, float(record[key]), time_ms, step) for key in keys]
    over_tokens = {key: name for key, name in _BY_TOKENS.get(kind, {}).items() if record.get(key) is not None}
    return by_step + [Metric(name, float(record[key]), time_ms, record["tokens_seen"]) for key, name in over_tokens.items()]


def params_of(config_tree: Mapping[str, Any]) -> "list[Param]":
    """The resolved configuration with dotted keys; values too long for MLflow end in '...'."""
    from mlflow.entities import Param

    return [Param(key, _cut(str(value), _MAX_PARAM_CHARS)) for key, value in flat(config_tree).items()]


def changed_params(params: "Sequence[Param]", logged: Mapping[str, str]) -> "list[RunTag]":
    """Tags for the values that a resumed run has changed: MLflow's own parameters stay as first logged."""
    from mlflow.entities import RunTag

    return [
        RunTag(f"changed.{param.key}", _cut(f"{logged[param.key]} -> {param.value}", _MAX_TAG_CHARS))
        for param in params
        if param.key in logged and logged[param.key] != param.value
    ]


def decision_tags(decisions: Iterable[Record]) -> "list[RunTag]":
    """`decision.<id>`: one readable line."""
    from mlflow.entities import RunTag

    return [RunTag(f"decision.{decision['decision_id']}", _cut(sentence(decision), _MAX_TAG_CHARS)) for decision in decisions]


def inputs_of(provenance: Mapping[str, Any]) -> "list[DatasetInput]":
    """The prepared corpus, for training and for validation, and its tokenizer, each with its digest."""
    from mlflow.entities import DatasetInput, InputTag

    corpus, tokenizer = provenance["corpus"], provenance["tokenizer"]
    datasets = {
        "training": _dataset("corpus", corpus["digest"], corpus["sources"], corpus),
        # by another name: MLflow keeps one of two inputs with the same name and digest
        "validation": _dataset("corpus, held out", corpus["digest"], corpus["validation_sources"] or corpus["sources"], corpus),
        "tokenizer": _dataset("tokenizer", tokenizer["sha256"], tokenizer["source"], tokenizer),
    }
    return [DatasetInput(dataset, [InputTag("mlflow.data.context", context)]) for context, dataset in datasets.items()]


def origin_tags(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The code's commit and the versions of packages, by the names that MLflow's pages show where it has any."""
    code = provenance["code"]
    tags = {f"version.{package}": version for package, version in provenance["packages"].items()}
    tags |= {"mlflow.source.name": code["command"], "mlflow.source.type": "LOCAL", "mlflow.user": code["user"]}
    if code["git_commit"]:
        tags |= {"mlflow.source.git.commit": code["git_commit"], "git.has_changes": str(code["git_has_changes"]).lower()}
    return tags


def _dataset(name: str, digest: str, source: Any, facts: Mapping[str, Any]) -> "Dataset":
    from mlflow.entities import Dataset

    profile = {key: value for key, value in facts.items() if not isinstance(value, dict | list)}
    return Dataset(name, digest[:_MAX_DIGEST_CHARS], "raystage", json.dumps(source), profile=json.dumps(profile))


def tags_of(tags: Mapping[str, str]) -> "list[RunTag]":
    """Tags, their values cut to MLflow's limit."""
    from mlflow.entities import RunTag

    return [RunTag(key, _cut(value, _MAX_TAG_CHARS)) for key, value in tags.items()]


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(_ELLIPSIS)] + _ELLIPSIS
