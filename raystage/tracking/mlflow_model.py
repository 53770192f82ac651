"""The trained model as an MLflow model: `mlflow.pyfunc` and `mlflow.transformers` load it, `mlflow models serve` serves it."""

import contextlib
import importlib.metadata
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODEL_NAME = "model"
_INPUT_EXAMPLE = ["The"]
_MAX_NEW_TOKENS = 50
_NEEDED = ("torch", "transformers", "safetensors")  # named, or MLflow starts a process that finds them out


def log_model(tracking_uri: str, run_id: str, folder: Path, registered_name: str | None) -> None:
    """Logs the Hugging Face folder as the model of that run, and as a version of `registered_name`. Raises MlflowException, OSError."""
    import mlflow
    import mlflow.transformers
    from mlflow.models import infer_signature
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    parts = {
        "model": AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False),  # nosec B615  # a folder of our own
        "tokenizer": AutoTokenizer.from_pretrained(folder, trust_remote_code=False),  # nosec B615  # likewise
    }
    params = _generation_params(parts["model"].config.max_position_embeddings)
    with _quiet(), _run_of(tracking_uri, run_id):
        mlflow.transformers.log_model(
            parts,
            name=MODEL_NAME,
            task="text-generation",
            signature=infer_signature(_INPUT_EXAMPLE, _INPUT_EXAMPLE, params),
            input_example=(_INPUT_EXAMPLE, params),
            pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in _NEEDED],
            registered_model_name=registered_name,
            await_registration_for=0,
        )


def _generation_params(context_tokens: int) -> dict[str, Any]:
    """What generation takes beside the text, with the values that hold where a caller gives none."""
    n_tokens = max(1, min(_MAX_NEW_TOKENS, context_tokens // 2))  # positions end with the context
    return {"max_new_tokens": n_tokens, "do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 1.0}


@contextlib.contextmanager
def _run_of(tracking_uri: str, run_id: str) -> Iterator[None]:
    """MLflow's own ways to log a model know only the process's current run; whoever has set one finds it again."""
    import mlflow

    before: Any = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(tracking_uri)
    try:
        with mlflow.start_run(run_id=run_id, nested=True):
            yield
    finally:
        mlflow.set_tracking_uri(before)  # None also takes MLFLOW_TRACKING_URI away again, which a set sets


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without hints about model cards, which a model of one's own has not."""
    levels = {name: logging.getLogger(name).level for name in ("mlflow", "mlflow.transformers", "mlflow.store")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        # registering prints, and so does the end of a run
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
