"""A larger training state from a smaller one: parameters and optimizer state, by the axes of each parameter (torch only).

README.md in this folder is the method card.
"""

from raystage.growth.errors import GrowthError
from raystage.growth.grow import grow
from raystage.growth.method import Method
from raystage.growth.model import grow_model
from raystage.growth.tensors import TrainingTensors

__all__ = ["GrowthError", "Method", "TrainingTensors", "grow", "grow_model"]
