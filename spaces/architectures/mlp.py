from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from .base import Architecture, checked_flag, checked_sizes, checked_width, scaled
from .shapes import as_image, check_problem, dense_head


@final
@dataclass(frozen=True)
class Mlp(Architecture):
    """A fully connected ReLU network.

    Attributes:
        hidden: neurons of each hidden layer, before `width`.
        width: multiplier of all hidden layers.
        batchnorm: BatchNorm after each hidden linear layer.
    """

    description: ClassVar[str] = "fully connected, hidden layers as given (256, 256)"

    hidden: Sequence[int] = (256, 256)
    width: float = 1.0
    batchnorm: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", checked_sizes("hidden", self.hidden))
        object.__setattr__(self, "width", checked_width(self.width))
        checked_flag("batchnorm", self.batchnorm)

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        check_problem(shape, classes)
        hidden = [scaled(size, self.width) for size in self.hidden]
        return nn.Sequential(*dense_head(as_image(shape), hidden, classes, batchnorm=self.batchnorm))
