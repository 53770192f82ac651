"""A process that trains one configuration and may be killed: python -m tests.training.run_once CONFIG."""

import sys

from raystage.config import load
from tests.training.made_run import train_here

if __name__ == "__main__":
    train_here(load(sys.argv[1]))
