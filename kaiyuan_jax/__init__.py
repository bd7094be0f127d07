"""Pretraining small language models in JAX: data sorted once, order, learning rate and averaging planned together."""

__version__ = "0.1.0"
