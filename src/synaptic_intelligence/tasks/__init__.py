"""Tasks, streams of tasks, and the data sets that they are made from."""

from synaptic_intelligence.tasks.errors import DataError
from synaptic_intelligence.tasks.mnist import load_mnist
from synaptic_intelligence.tasks.stream import permute_pixels, split_by_class
from synaptic_intelligence.tasks.task import Stream, Task

__all__ = [
    "DataError",
    "Stream",
    "Task",
    "load_mnist",
    "permute_pixels",
    "split_by_class",
]
