from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from .base import Architecture, checked_flag, checked_width, scaled
from .shapes import as_sequence, check_problem, convolution, dense_head, reshaped


@final
@dataclass(frozen=True)
class Cnn1d(Architecture):
    """A network for sensor windows: convolutions over time of 32, 32 (stride 2) and 64 (stride 2) channels with 5 taps,
    then 100 neurons. Rows of an image count as channels.

    The convolutions are `Conv2d` over maps of height 1, because auto_LiRPA 0.3 bounds no `Conv1d`.

    Attributes:
        width: multiplier of all channels and hidden neurons.
        batchnorm: BatchNorm after each layer but the last.
    """

    description: ClassVar[str] = "for (channels, length): conv 32, 32 s2, 64 s2 over time (5 taps), fc 100"

    width: float = 1.0
    batchnorm: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", checked_width(self.width))
        checked_flag("batchnorm", self.batchnorm)

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        check_problem(shape, classes)
        series = as_sequence(shape)
        layers = reshaped(shape, series)
        for channels, stride in ((32, 1), (32, 2), (64, 2)):
            layer, series = convolution(series, scaled(channels, self.width), kernel=5, stride=stride, padding=2)
            norm = [nn.BatchNorm2d(series[0])] if self.batchnorm else []
            layers += [layer, *norm, nn.ReLU()]
        head = dense_head(series, [scaled(100, self.width)], classes, batchnorm=self.batchnorm)
        return nn.Sequential(*layers, *head)
