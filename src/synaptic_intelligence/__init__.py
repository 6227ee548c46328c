"""Continual learning through synaptic intelligence, for PyTorch."""

from synaptic_intelligence import optim
from synaptic_intelligence.consolidator import Consolidator, SynapticIntelligence
from synaptic_intelligence.errors import SynapseError, SynapseWarning
from synaptic_intelligence.importance import Fisher, Importance, PathIntegral, TaskEnd, importance_of
from synaptic_intelligence.memory import Memory
from synaptic_intelligence.version import __version__

__all__ = [
    "Consolidator",
    "Fisher",
    "Importance",
    "Memory",
    "PathIntegral",
    "SynapseError",
    "SynapseWarning",
    "SynapticIntelligence",
    "TaskEnd",
    "__version__",
    "importance_of",
    "optim",
]
