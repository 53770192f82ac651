"""raystage: elastic GPT pretraining on Ray that paces sequence length and model size by itself."""

__version__ = "0.1.0"
