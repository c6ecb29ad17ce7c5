"""The last linear layer merged with the margins: bounds of `logit_y - logit_k` tighter than those of the logits."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .region import Ball, Box, Region, spread

CLASS_TABLE_LIMIT = 32
"""Up to this many classes all pairs of classes are bounded in one product, which costs `classes^2` columns."""


def margin_lower_bounds(last_linear: nn.Linear, features: Region, labels: Tensor) -> Tensor:
    """The lower ends `(batch, classes)` of `margin_bounds`; exactly 0 at k = y."""
    return margin_bounds(last_linear, features, labels).lower


def margin_bounds(last_linear: nn.Linear, features: Region, labels: Tensor) -> Box:
    """Bounds of `logit_y - logit_k` over the region that the last linear layer reads.

    The centre of a margin is a difference of logits; its radius is `radius · |W_y - W_k|`, taken from one table of all
    pairs of classes, which is one matrix product for the batch instead of one per sample.

    Under autocast this layer alone is computed in the precision of its weights: a margin is a difference of logits, in
    which a loss has its gradient, and the layer is small.

    Args:
        features: `(batch, features)`; a box, unless there is no ReLU.
        labels: `(batch,)`, the class y of each sample.

    Returns:
        `(batch, classes)`; exactly 0 at k = y.
    """
    with torch.autocast(features.centre.device.type, enabled=False):
        dtype = last_linear.weight.dtype
        centre, radius = features.centre.to(dtype), features.radius.to(dtype)
        return _margin_bounds(last_linear, features._replace(centre=centre, radius=radius), labels)


def _margin_bounds(last_linear: nn.Linear, features: Region, labels: Tensor) -> Box:
    weight = last_linear.weight
    classes = weight.shape[0]
    logits = F.linear(features.centre, weight, last_linear.bias)
    margins = logits.gather(1, labels[:, None]) - logits
    if classes <= CLASS_TABLE_LIMIT:
        table = (weight[:, None, :] - weight[None, :, :]).flatten(0, 1)
        pairs = spread(features, F.linear, table).view(-1, classes, classes)
        radius = pairs.gather(1, labels[:, None, None].expand(-1, 1, classes)).squeeze(1)
    else:
        differences = weight[labels][:, None, :] - weight
        radius = spread(features, lambda one, other: torch.einsum("bd,bkd->bk", one, other), differences)
    # Over a ball what may have been lost of squares is added everywhere.
    return Box(margins, radius.scatter(1, labels[:, None], 0.0) if isinstance(features, Ball) else radius)
