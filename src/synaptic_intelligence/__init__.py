"""Continual learning through synaptic intelligence, for PyTorch."""

from .consolidator import Consolidator, SynapticIntelligence
from .errors import SynapseError, SynapseWarning
from .importance import Fisher, Importance, PathIntegral, TaskEnd
from .version import __version__

__all__ = [
    "Consolidator",
    "Fisher",
    "Importance",
    "PathIntegral",
    "SynapseError",
    "SynapseWarning",
    "SynapticIntelligence",
    "TaskEnd",
    "__version__",
]
