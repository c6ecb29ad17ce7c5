"""What a study may optimise, and which way."""

from typing import Final, Literal

Direction = Literal["maximize", "minimize"]

OBJECTIVES: Final[dict[str, Direction]] = {
    "verified_accuracy": "maximize",
    "natural_accuracy": "maximize",
    "adversarial_accuracy": "maximize",
    "verified_auc": "maximize",
    "sparsity": "maximize",
    "macs": "minimize",
    "size_bytes": "minimize",
    "nonzero_weights": "minimize",
    "unstable_relu_fraction": "minimize",
}
