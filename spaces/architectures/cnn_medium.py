from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from .base import Architecture, checked_width, scaled
from .shapes import as_image, check_problem, convolution, dense_head, reshaped


@final
@dataclass(frozen=True)
class CnnMedium(Architecture):
    """A network after the medium one of Gowal et al. 2018 (arXiv 1810.12715), with padding 1: convolutions of 32 (3x3),
    32 (4x4, stride 2), 64 (3x3) and 64 (4x4, stride 2), then twice 512 neurons.

    Attributes:
        width: multiplier of all channels and hidden neurons.
    """

    description: ClassVar[str] = "conv 32 3x3, 32 4x4 s2, 64 3x3, 64 4x4 s2, fc 512, 512 (after Gowal et al. 2018)"

    width: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", checked_width(self.width))

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        check_problem(shape, classes)
        image = as_image(shape)
        layers = reshaped(shape, image)
        for channels, kernel, stride in ((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2)):
            size = scaled(channels, self.width)
            layer, image = convolution(image, size, kernel=kernel, stride=stride, padding=1)
            layers += [layer, nn.ReLU()]
        return nn.Sequential(*layers, *dense_head(image, [scaled(512, self.width)] * 2, classes))
