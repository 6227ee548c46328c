"""The data sets of the experiments: MNIST, which comes with the package, and CIFAR."""

from synaptic_intelligence.data.cifar import load_cifar10, load_cifar100
from synaptic_intelligence.data.errors import DataError
from synaptic_intelligence.data.mnist import load_mnist

__all__ = ["DataError", "load_cifar10", "load_cifar100", "load_mnist"]
