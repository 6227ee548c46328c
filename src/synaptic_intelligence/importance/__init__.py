"""Importance estimators, one file each; all fill the same omega."""

from .estimator import Importance, TaskEnd
from .fisher import Fisher
from .path_integral import PathIntegral

__all__ = ["Fisher", "Importance", "PathIntegral", "TaskEnd"]
