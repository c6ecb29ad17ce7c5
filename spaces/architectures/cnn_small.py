from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from .base import Architecture, checked_width, scaled
from .shapes import as_image, check_problem, convolution, dense_head, reshaped


@final
@dataclass(frozen=True)
class CnnSmall(Architecture):
    """The small network of Gowal et al. 2018 (arXiv 1810.12715): two convolutions without padding, 16 of 4x4 at stride
    2 and 32 of 4x4 at stride 1, then 100 neurons.

    Attributes:
        width: multiplier of all channels and hidden neurons.
    """

    description: ClassVar[str] = "conv 16 4x4 s2, conv 32 4x4 s1, fc 100 (Gowal et al. 2018, small)"

    width: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", checked_width(self.width))

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        check_problem(shape, classes)
        image = as_image(shape)
        layers = reshaped(shape, image)
        for channels, stride in ((16, 2), (32, 1)):
            layer, image = convolution(image, scaled(channels, self.width), kernel=4, stride=stride)
            layers += [layer, nn.ReLU()]
        return nn.Sequential(*layers, *dense_head(image, [scaled(100, self.width)], classes))
