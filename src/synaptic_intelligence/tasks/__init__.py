"""Tasks, and streams of tasks made from one data set."""

from synaptic_intelligence.tasks.stream import permute_pixels, split_by_class
from synaptic_intelligence.tasks.task import Stream, Task

__all__ = ["Stream", "Task", "permute_pixels", "split_by_class"]
