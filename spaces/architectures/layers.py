"""The two layers that architectures need beyond torch's own; `trainables.bounds` knows both."""

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn


@final
class Residual(nn.Module):
    """`body(x) + shortcut(x)`, both of one shape (He et al. 2016); the shortcut may be `nn.Identity()`."""

    def __init__(self, body: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


@final
class Reshape(nn.Module):
    """`(batch, *any)` to `(batch, *shape)`, the number of values unchanged."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(int(size) for size in shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.shape)

    def extra_repr(self) -> str:
        return f"shape={self.shape}"
