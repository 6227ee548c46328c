"""Importance estimators, one file each; all fill the same omega."""

from synaptic_intelligence.importance.choice import importance_of
from synaptic_intelligence.importance.estimator import Importance, TaskEnd
from synaptic_intelligence.importance.fisher import Fisher
from synaptic_intelligence.importance.path_integral import PathIntegral

__all__ = ["Fisher", "Importance", "PathIntegral", "TaskEnd", "importance_of"]
