"""Optimizers with the synapses inside: the same equations, in one pass over memory for each step."""

from synaptic_intelligence.optim.adam import Adam, AdamW
from synaptic_intelligence.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW"]
