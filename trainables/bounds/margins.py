"""The last linear layer merged with the margins: bounds of `logit_y - logit_k` tighter than those of the logits."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .interval import Box

CLASS_TABLE_LIMIT = 32
"""Up to this many classes all pairs of classes are bounded in one product, which costs `classes^2` columns."""


def margin_lower_bounds(last_linear: nn.Linear, centre: Tensor, radius: Tensor, labels: Tensor) -> Tensor:
    """The lower ends `(batch, classes)` of `margin_bounds`; exactly 0 at k = y."""
    return margin_bounds(last_linear, centre, radius, labels).lower


def margin_bounds(last_linear: nn.Linear, centre: Tensor, radius: Tensor, labels: Tensor) -> Box:
    """Bounds of `logit_y - logit_k` over the box at the input of the last linear layer.

    The centre of a margin is a difference of logits; its radius is `radius · |W_y - W_k|`, taken from one table of all
    pairs of classes, which is one matrix product for the batch instead of one per sample.

    Under autocast this layer alone is computed in the precision of its weights: a margin is a difference of logits, in
    which a loss has its gradient, and the layer is small.

    Args:
        centre, radius: `(batch, features)`.
        labels: `(batch,)`, the class y of each sample.

    Returns:
        `(batch, classes)`; exactly 0 at k = y.
    """
    with torch.autocast(centre.device.type, enabled=False):
        dtype = last_linear.weight.dtype
        return _margin_bounds(last_linear, centre.to(dtype), radius.to(dtype), labels)


def _margin_bounds(last_linear: nn.Linear, centre: Tensor, radius: Tensor, labels: Tensor) -> Box:
    weight = last_linear.weight
    classes = weight.shape[0]
    logits = F.linear(centre, weight, last_linear.bias)
    margins = logits.gather(1, labels[:, None]) - logits
    if classes <= CLASS_TABLE_LIMIT:
        table = (weight[:, None, :] - weight[None, :, :]).abs().flatten(0, 1)
        pairs = F.linear(radius, table).view(-1, classes, classes)
        spread = pairs.gather(1, labels[:, None, None].expand(-1, 1, classes)).squeeze(1)
    else:
        spread = torch.einsum("bd,bkd->bk", radius, (weight[labels][:, None, :] - weight).abs())
    return Box(margins, spread)


def logit_bounds(last_linear: nn.Linear, centre: Tensor, radius: Tensor) -> Box:
    """Bounds of the logits, `(batch, classes)`, from the box `(batch, features)` at the input of the last layer."""
    return Box(
        F.linear(centre, last_linear.weight, last_linear.bias),
        F.linear(radius, last_linear.weight.abs()),
    )
