"""Continual learning through synaptic intelligence, for PyTorch."""

from synaptic_intelligence import optim, triggers
from synaptic_intelligence.choosing import suggest_c
from synaptic_intelligence.consolidator import Consolidator, SynapticIntelligence
from synaptic_intelligence.diagnosis.finding import Finding
from synaptic_intelligence.diagnosis.report import Diagnosis
from synaptic_intelligence.errors import SynapseError, SynapseWarning
from synaptic_intelligence.importance import (
    MAS,
    Fisher,
    Importance,
    PathIntegral,
    ShortPath,
    TaskEnd,
    Uniform,
    importance_of,
)
from synaptic_intelligence.inspection import Inspection, inspect_importance
from synaptic_intelligence.memory import Memory
from synaptic_intelligence.merging import merge_importance
from synaptic_intelligence.surgery import Surgery
from synaptic_intelligence.version import __version__

__all__ = [
    "Consolidator",
    "Diagnosis",
    "Finding",
    "Fisher",
    "Importance",
    "Inspection",
    "MAS",
    "Memory",
    "PathIntegral",
    "ShortPath",
    "Surgery",
    "SynapseError",
    "SynapseWarning",
    "SynapticIntelligence",
    "TaskEnd",
    "Uniform",
    "__version__",
    "importance_of",
    "inspect_importance",
    "merge_importance",
    "optim",
    "suggest_c",
    "triggers",
]
