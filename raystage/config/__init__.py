"""The configuration of a run: one YAML file + dotted overrides -> frozen dataclasses, validated whole."""

from raystage.config.errors import ConfigError
from raystage.config.load import dump, flat, from_tree, load, to_tree
from raystage.config.schema import Config

__all__ = ["Config", "ConfigError", "dump", "flat", "from_tree", "load", "to_tree"]
