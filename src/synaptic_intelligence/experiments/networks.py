"""The paper's networks, with Glorot-uniform weights and zero biases, as in Keras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn


def multilayer_perceptron(
    sizes: Sequence[int], generator: torch.Generator, *, zero_output: bool, dropout: float = 0.0
) -> nn.Module:
    """Return a network of linear layers with ReLU between them.

    Args:
        sizes: number of inputs, of each hidden layer's units, and of outputs.
        generator: where all weights come from.
        zero_output: whether the output layer starts at zero.
        dropout: probability that a hidden unit is dropped.

    Example:
        >>> model = multilayer_perceptron((4, 3, 2), torch.Generator().manual_seed(0), zero_output=True)
        >>> model(torch.rand(1, 4))
        tensor([[0., 0.]], grad_fn=<AddmmBackward0>)
    """
    # skip_init: Linear would fill its weights from the global generator, only for them to be replaced here.
    *hidden, output = (nn.utils.skip_init(nn.Linear, before, after) for before, after in pairwise(sizes))
    modules: list[nn.Module] = []
    for layer in hidden:
        modules += [layer, nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    model = nn.Sequential(*modules, output)
    glorot_(model, generator)
    if zero_output:
        nn.init.zeros_(output.weight)
    return model


def convolutional_network(outputs: int, generator: torch.Generator) -> nn.Module:
    """Return the network 32-32-pool-64-64-pool-512 for images of 3 x 32 x 32 pixels, with dropout and zero output.

    Convolutions are 3 x 3, the first of each pair padded; ReLU follows each layer but the last. Dropout is 0.25 after
    each pool and 0.5 before the output. The weights lie in memory channels last: on a CPU a step then takes two thirds
    of the time.

    Source: Zenke et al. 2017, supplementary material.

    Example:
        >>> convolutional_network(10, torch.Generator().manual_seed(0))(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    skip_init: Callable[..., nn.Module] = nn.utils.skip_init
    output = nn.utils.skip_init(nn.Linear, 512, outputs)
    model = nn.Sequential(
        *(skip_init(nn.Conv2d, 3, 32, 3, padding=1), nn.ReLU()),
        *(skip_init(nn.Conv2d, 32, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(skip_init(nn.Conv2d, 32, 64, 3, padding=1), nn.ReLU()),
        *(skip_init(nn.Conv2d, 64, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), skip_init(nn.Linear, 64 * 6 * 6, 512), nn.ReLU(), nn.Dropout(0.5)),
        output,
    )
    glorot_(model, generator)
    nn.init.zeros_(output.weight)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def glorot_(model: nn.Module, generator: torch.Generator) -> None:
    """Fill every weight from Glorot's uniform distribution, layer by layer, and every bias with zero.

    Source: Glorot & Bengio, *Understanding the difficulty of training deep feedforward neural networks*, 2010.
    """
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter, generator=generator)
        else:
            nn.init.zeros_(parameter)
