"""A larger training state from a smaller one: parameters and AdamW moments, by the axes of each parameter (torch only)."""

from raystage.growth.grow import grow
from raystage.growth.tensors import Moments, TrainingTensors

__all__ = ["Moments", "TrainingTensors", "grow"]
