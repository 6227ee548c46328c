"""Importance estimators, one file each; all fill the same omega."""

from synaptic_intelligence.importance.choice import importance_of
from synaptic_intelligence.importance.estimator import Importance, TaskEnd
from synaptic_intelligence.importance.fisher import Fisher
from synaptic_intelligence.importance.mas import MAS
from synaptic_intelligence.importance.path_integral import PathIntegral
from synaptic_intelligence.importance.short_path import ShortPath
from synaptic_intelligence.importance.uniform import Uniform

__all__ = ["MAS", "Fisher", "Importance", "PathIntegral", "ShortPath", "TaskEnd", "Uniform", "importance_of"]
