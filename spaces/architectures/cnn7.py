from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from .base import Architecture, checked_flag, checked_width, scaled
from .shapes import as_image, check_problem, convolution, dense_head, reshaped


@final
@dataclass(frozen=True)
class Cnn7(Architecture):
    """The seven-layer network of Shi et al. 2021 (arXiv 2103.17268): 3x3 convolutions of 64, 64, 128 (stride 2), 128
    and 128 channels, then 512 neurons, with BatchNorm after convolutions and the hidden linear layer.

    Attributes:
        width: multiplier of all channels and hidden neurons; 0.25 gives 16, 16, 32, 32, 32 and 128.
        batchnorm: BatchNorm after each layer but the last.
    """

    description: ClassVar[str] = "conv 64, 64, 128 s2, 128, 128 (3x3), fc 512, BatchNorm (Shi et al. 2021)"

    width: float = 1.0
    batchnorm: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", checked_width(self.width))
        checked_flag("batchnorm", self.batchnorm)

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        check_problem(shape, classes)
        image = as_image(shape)
        layers = reshaped(shape, image)
        for channels, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (128, 1)):
            layer, image = convolution(image, scaled(channels, self.width), kernel=3, stride=stride, padding=1)
            norm = [nn.BatchNorm2d(image[0])] if self.batchnorm else []
            layers += [layer, *norm, nn.ReLU()]
        head = dense_head(image, [scaled(512, self.width)], classes, batchnorm=self.batchnorm)
        return nn.Sequential(*layers, *head)
