from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from .base import Architecture, checked_flag, checked_width, scaled
from .layers import Residual
from .shapes import Shape, as_image, check_problem, convolution, dense_head, reshaped


@final
@dataclass(frozen=True)
class ResnetSmall(Architecture):
    """A residual network (He et al. 2016, arXiv 1512.03385) of eight weight layers: a 3x3 convolution of 16 channels,
    three basic blocks of 16, 32 (stride 2) and 64 (stride 2), the mean over the map, and the linear layer of logits.

    Attributes:
        width: multiplier of all channels.
        batchnorm: BatchNorm after each convolution.
    """

    description: ClassVar[str] = "conv 16, residual blocks 16, 32 s2, 64 s2, average pool (after He et al. 2016)"

    width: float = 1.0
    batchnorm: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", checked_width(self.width))
        checked_flag("batchnorm", self.batchnorm)

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        check_problem(shape, classes)
        image = as_image(shape)
        layers = reshaped(shape, image)
        stem, image = self._convolution(image, 16, kernel=3, stride=1)
        layers += [*stem, nn.ReLU()]
        for channels, stride in ((16, 1), (32, 2), (64, 2)):
            first, middle = self._convolution(image, channels, kernel=3, stride=stride)
            second, after = self._convolution(middle, channels, kernel=3, stride=1)
            shortcut: nn.Module = nn.Identity()
            if after != image:
                # A 1x1 kernel at the same stride meets the 3x3 one of padding 1 in size, for every input size.
                shortcut = nn.Sequential(*self._convolution(image, channels, kernel=1, stride=stride)[0])
            layers += [Residual(nn.Sequential(*first, nn.ReLU(), *second), shortcut), nn.ReLU()]
            image = after
        pool = nn.AvgPool2d((image[1], image[2]))
        return nn.Sequential(*layers, pool, *dense_head((image[0], 1, 1), [], classes))

    def _convolution(self, shape: Shape, channels: int, *, kernel: int, stride: int) -> tuple[list[nn.Module], Shape]:
        size = scaled(channels, self.width)
        layer, after = convolution(shape, size, kernel=kernel, stride=stride, padding=kernel // 2)
        return [layer, nn.BatchNorm2d(size)] if self.batchnorm else [layer], after
