"""Other packages' chatter, kept off the terminal."""

import os
import warnings


def quiet_environment() -> None:
    """Keeps other packages' chatter off the terminal; what the user has set stays."""
    for key, value in {
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(key, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
