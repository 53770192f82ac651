"""Where the results of an evaluation go: files in the run folder, MLflow's metrics, a table."""

import json
import re
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from raystage.config import ConfigError
from raystage.config.schema import Tracking
from raystage.runtime.evaluate import Tree
from raystage.runtime.model_source import ModelSource
from raystage.runtime.run_folder import write_whole
from raystage.runtime.view import send_files
from raystage.storage.address import is_uri
from raystage.tracking.mlflow_evaluation import EVALUATIONS, log_evaluations
from raystage.tracking.mlflow_mark import load_mark

# of each kind the figures with their units, as the table shows them and MLflow gets them
_FIGURES = {
    "perplexity": {
        "token_perplexity": "perplexity per token",
        "word_perplexity": "perplexity per word",
        "bits_per_byte": "bits per byte",
        "loss": "loss, nats per token",
        "token_accuracy": "accuracy by token",
    },
    "lambada": {"accuracy": "accuracy of last words", "perplexity": "perplexity per last word"},
    "validation": {"loss": "loss, nats per token", "token_perplexity": "perplexity per token"},
    "text_by_position": {"loss": "loss, nats per token", "token_perplexity": "perplexity per token"},
}


def save_json(tree: Tree, path: Path) -> None:
    """Writes the whole tree. Raises ConfigError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(tree, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); name another file") from None


def publish(tree: Tree, found: ModelSource, source: str, mlflow: bool | None) -> list[str]:
    """Saves a file for each result in the run that the model comes from, at its URI too, and logs the figures to MLflow; a line for each.

    `mlflow`: None: where the run has an MLflow run. Of a model that is of no run there is nothing to do. Raises ConfigError.
    """
    if found.run is None or found.stored is None:
        if mlflow:
            raise ConfigError(f"--mlflow: {found.folder} belongs to no run folder that names an MLflow run")
        return []
    has_mlflow = load_mark(found.run) is not None if mlflow is None else mlflow
    tracking = found.config().tracking if has_mlflow else None
    paths, trouble = keep(tree, found.run, tracking)
    lines = [f"saved: {path}" for path in paths]
    if is_uri(source):
        send_files(source, paths)
    return [*lines, f"MLflow: not logged: {trouble}" if trouble else "MLflow: logged under eval/"] if has_mlflow else lines


def keep(tree: Tree, run_dir: Path, tracking: Tracking | None) -> tuple[list[Path], str | None]:
    """Saves a file for each result, and sends them to MLflow where there is `tracking`; the files, and why they could not be sent."""
    paths = [_save(tree, result, run_dir) for result in tree["results"]]
    return paths, log_evaluations(run_dir, tracking, paths) if tracking else None


def _save(tree: Tree, result: Tree, run_dir: Path) -> Path:
    """The file of one result, with all that is needed to measure it again; the same measurement replaces its file."""
    path = run_dir / EVALUATIONS / f"{tree['model']['checkpoint']}-{_file_name(result, tree['settings'])}.json"
    save_json({**tree, "results": [result], "metrics": metrics_of({**tree, "results": [result]})}, path)
    return path


def metrics_of(tree: Tree) -> dict[str, float]:
    """The figures as `eval/<name>/<figure>`."""
    return {
        f"eval/{_file_name(result, tree['settings'])}/{figure}": result[figure]
        for result in tree["results"]
        for figure in _FIGURES[result["kind"]]
        if result[figure] is not None
    }


def evaluation_table(tree: Tree) -> Table:
    """A line a figure, and of losses by position a line a range."""
    model = tree["model"]
    table = Table(model["checkpoint"] or Path(model["folder"]).name, "", "", box=SIMPLE)
    for result in tree["results"]:
        for number, (figure, unit) in enumerate(_FIGURES[result["kind"]].items()):
            table.add_row("" if number else result["name"], _shown(result[figure]), unit)
        for part in result.get("ranges", ()):
            table.add_row("", _shown(part["loss"]), f"loss at positions {part['from']} to {part['to']}")
    return table


def summary_line(tree: Tree) -> str:
    """The first figure of each result: `validation 2.31, lambada-test 0.012 (accuracy)`."""
    parts = []
    for result in tree["results"]:
        figure = next(iter(_FIGURES[result["kind"]]))
        parts.append(f"{result['name']}: {figure.replace('_', ' ')} {_shown(result[figure])}")
    return ", ".join(parts)


def conventions(tree: Tree) -> list[str]:
    """How each figure was measured, a line a result."""
    return [f"{result['name']}: {_convention(result, tree['settings'])}" for result in tree["results"]]


def _convention(result: Tree, settings: Tree) -> str:
    context, stride = settings["context_tokens"], settings["stride_tokens"]
    if result["kind"] == "perplexity":
        return (
            f"text as it stands, behind one end-of-text; windows of {context:,} tokens, stride {stride:,}; {result['n_tokens']:,} tokens, "
            f"{result['n_words']:,} words ({result['words_counted_by']}), {result['n_bytes']:,} bytes"
        )
    if result["kind"] == "lambada":
        cut = f"; {result['n_cut']:,} cut to the last {context:,} tokens" if result["n_cut"] else ""
        return f"{result['n_passages']:,} passages, the last word behind the last space, {result['n_target_tokens']:,} tokens{cut}"
    return f"{result['n_rows']:,} rows of {context:,} tokens"


def _metric_name(result: Tree) -> str:
    return f"{result['name']}-rows" if result["kind"] == "text_by_position" else str(result["name"])


def _file_name(result: Tree, settings: Tree) -> str:
    """With the settings that move the figures."""
    stride = [settings["stride_tokens"]] if result["kind"] == "perplexity" else []
    precision = [settings["precision"]] if settings["precision"] != "float32" else []
    return "-".join(map(str, (_plain(_metric_name(result)), settings["context_tokens"], *stride, *precision)))


def _plain(name: str) -> str:
    """Letters, digits and `._-` alone, as file systems and MLflow take them."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.4f}" if abs(value) < 10_000 else f"{value:.4e}"
