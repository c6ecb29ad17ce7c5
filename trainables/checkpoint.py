"""Checkpoints: safetensors and JSON, written so that a reader sees all of one or none of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from safetensors import SafetensorError
from safetensors import torch as tensors
from torch import Tensor

from ..results import StorageError
from ..results.checkpoints import read_file, read_state
from ..results.errors import StorageDown
from ..results.location import Location, storage_errors
from ..results.paths import MASK, OPTIMIZER, PRUNER, STATE, WEIGHTS
from .errors import CheckpointError
from .mask import Mask


@dataclass(frozen=True)
class Checkpoint:
    """Everything a trial needs to go on as if it had never stopped.

    Data order, attack and pruning randomness are functions of the trial's seed and the epoch, so no random state is
    kept; the ramp and the learning rate are functions of the epoch.

    Attributes:
        epoch: number of epochs trained.
        weights: state of the network that is scored, by torch's names; buffers included.
        mask: which weights are kept.
        optimizer: moments by `name/parameter`, empty where the optimizer is no longer needed; where weights are
            averaged, also the state of the network that trains, by `iterate/name`.
        train_seconds, verify_seconds: what training and verification have cost so far.
        shared_seconds: what other trials have spent on the dense stage that this one took over.
        fingerprint: of the configuration that was trained, or the key of the dense stage.
        pruner: what pruning itself has to remember (weights to rewind to, scores in training), by `entry/parameter`;
            empty where that is nothing, and then no file.
    """

    epoch: int
    weights: Mapping[str, Tensor]
    mask: Mask
    optimizer: Mapping[str, Tensor]
    train_seconds: float
    verify_seconds: float
    shared_seconds: float
    fingerprint: str
    pruner: Mapping[str, Tensor] = field(default_factory=dict)

    def save(self, location: Location, path: str) -> None:
        """Write to the folder `path` of a study; `state.json`, the last file, makes the checkpoint valid.

        Raises:
            StorageError: the study's storage does not take it.
        """
        files = {
            WEIGHTS: tensors.save({name: tensor.contiguous() for name, tensor in self.weights.items()}),
            MASK: tensors.save(dict(self.mask)),
            OPTIMIZER: tensors.save({name: tensor.contiguous() for name, tensor in self.optimizer.items()}),
        }
        if self.pruner:
            files[PRUNER] = tensors.save({name: tensor.contiguous() for name, tensor in self.pruner.items()})
        state = {
            "epoch": self.epoch,
            "train_seconds": self.train_seconds,
            "verify_seconds": self.verify_seconds,
            "shared_seconds": self.shared_seconds,
            "fingerprint": self.fingerprint,
            "sha256": {name: sha256(content).hexdigest() for name, content in files.items()},
        }
        files[STATE] = json.dumps(state, indent=1).encode()
        remedy = f"free space or bring the storage back, then go on with: sparsevlr resume {location.shown}"
        with storage_errors(f"write to {location.shown}", remedy):
            for name, content in files.items():
                location.replace(f"{path}/{name}", content)

    @classmethod
    def load(cls, location: Location, path: str) -> Checkpoint:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the checkpoint is missing, incomplete or changed since it was written.
            StorageDown: an object store does not answer.
            UnsafePath: the path leads outside the study.
        """
        try:
            state = read_state(location, path)
            names = (WEIGHTS, MASK, OPTIMIZER, *([PRUNER] if PRUNER in state["sha256"] else []))
            content = {name: read_file(location, path, name, state) for name in names}
        except StorageDown:
            raise
        except StorageError as error:
            raise CheckpointError(str(error)) from error
        try:
            return cls(
                epoch=int(state["epoch"]),
                weights=tensors.load(content[WEIGHTS]),
                mask=Mask(tensors.load(content[MASK])),
                optimizer=tensors.load(content[OPTIMIZER]),
                train_seconds=float(state["train_seconds"]),
                verify_seconds=float(state["verify_seconds"]),
                shared_seconds=float(state["shared_seconds"]),
                fingerprint=str(state["fingerprint"]),
                pruner=tensors.load(content[PRUNER]) if PRUNER in content else {},
            )
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
