"""The dense stage of a trial: what it trains before anything is pruned, and may share with other trials."""

from __future__ import annotations

from dataclasses import dataclass

from ..results.location import Location, storage_errors
from ..results.paths import parse_stage_epoch, stage_folder, stage_path
from ..spaces import StudySpec, TrialConfig
from .checkpoint import Checkpoint
from .errors import CheckpointError
from .methods import Methods, dense_fingerprint
from .pruning import first_due
from .seeds import derived_seed
from .steps import Steps


@dataclass(frozen=True)
class DenseStage:
    """The whole epochs before a trial's first pruning; all of them where its target sparsity is 0.

    Trials with equal keys train the same network in it, bit for bit, because its seed is the study's: two dense trials
    with equal options are one network. A fresh network therefore needs another seed of the study, not only of the
    trial.

    Attributes:
        key: 16 hexadecimal digits that stand for everything the stage depends on, its length excepted: what a longer
            stage passes on its way is a shorter one.
        epochs: its length; a stage of 0 epochs is none.
        seed: of initialisation and data order within it.
    """

    key: str
    epochs: int
    seed: int

    @classmethod
    def of(cls, config: TrialConfig, spec: StudySpec, samples: int) -> DenseStage:
        """The dense stage of `config` in a study whose training split has so many samples.

        Raises:
            SpecError: the configuration is impossible.
        """
        steps, methods = Steps.of(spec, samples), Methods.of(config)
        pruned_from = first_due(methods.schedule, steps.total) if config.target_sparsity else steps.total
        if methods.start.parent is not None:
            pruned_from = 0
        return cls(dense_fingerprint(config, spec), pruned_from // steps.per_epoch, derived_seed(spec.seed, "dense"))

    def find(self, location: Location, after: int, until: int) -> Checkpoint | None:
        """The newest checkpoint of this stage that any trial has left at an epoch in (after, until].

        One that is torn or corrupt counts as none: whoever needs it trains it again, and writes it anew.
        """
        with storage_errors(f"read {location.shown}", "check that the storage is there and readable"):
            epochs = map(parse_stage_epoch, location.folders(stage_folder(self.key)))
        for epoch in sorted((epoch for epoch in epochs if epoch is not None and after < epoch <= until), reverse=True):
            try:
                checkpoint = Checkpoint.load(location, stage_path(self.key, epoch))
            except CheckpointError:
                continue
            if (checkpoint.fingerprint, checkpoint.epoch) == (self.key, epoch):
                return checkpoint
        return None

    def leave(self, location: Location, checkpoint: Checkpoint) -> None:
        """Store a checkpoint of this stage for others. Whoever does so at the same time writes the same network."""
        checkpoint.save(location, stage_path(self.key, checkpoint.epoch))
