"""The data sets of the experiments: MNIST, which comes with the package, and CIFAR."""

from synaptic_intelligence.datasets.cifar import load_cifar10, load_cifar100
from synaptic_intelligence.datasets.errors import DataError
from synaptic_intelligence.datasets.mnist import load_mnist

__all__ = ["DataError", "load_cifar10", "load_cifar100", "load_mnist"]
