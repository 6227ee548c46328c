"""The networks whose training is timed, small to large; plain, as a user would write them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def perceptron(hidden: int) -> nn.Module:
    """Return 784-hidden-hidden-10 with ReLU."""
    return nn.Sequential(
        *(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    )


class _Block(nn.Module):
    """Two convolutions with batch normalisation, and what came in added to what comes out."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.aside: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.aside = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return F.relu(self.body(x) + self.aside(x))


def resnet18() -> nn.Module:
    """Return ResNet-18 in its form for images of 32 x 32 pixels: 11 M parameters.

    Source: He et al. 2016, *Deep Residual Learning for Image Recognition*.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    before = 64
    for after, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [_Block(before, after, stride), _Block(after, after, 1)]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Decoder(nn.Module):
    """A decoder of transformer blocks in the manner of GPT-2, which predicts the next of its tokens.

    Args:
        width, blocks, heads: of the transformer.
        tokens: in the vocabulary; the embedding serves as output layer too.
        context: longest sequence.
    """

    def __init__(self, width: int, blocks: int, heads: int, tokens: int, context: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(tokens, width), nn.Embedding(context, width)
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, blocks, norm=nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[batch, length, tokens]`` of the token that follows each."""
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=x.device)
        states = self.token(x) + self.place(torch.arange(length, device=x.device))
        return F.linear(self.blocks(states, mask=mask, is_causal=True), self.token.weight)
