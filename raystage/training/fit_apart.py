"""A choice by memory in a process of its own: JSON in, JSON out. `python -m raystage.training.fit_apart`."""

import json
import sys

from raystage.config import from_tree
from raystage.models.spec import ModelSpec
from raystage.training.errors import RehearsalError
from raystage.training.memory_fit import with_choices

ANSWER = "raystage's answer: "  # begins its line


def main() -> None:
    """Answers with a micro-batch [tokens], or why there is none."""
    asked = json.load(sys.stdin)
    try:
        config = with_choices(from_tree(asked["config"]), ModelSpec(**asked["spec"]), *asked["more"])
        answer: dict[str, str | int | None] = {"refused": None, "micro_batch_tokens": config.training.micro_batch_tokens}
    except RehearsalError as error:
        answer = {"refused": str(error), "micro_batch_tokens": None}
    print(ANSWER + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
