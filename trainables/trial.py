"""A trial, free of Ray: train to a rung, score, save, report; then on to the next."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from ..results import Record
from ..results.intervals import wilson_interval
from ..results.location import Location, storage_errors
from ..results.paths import checkpoint_path
from ..spaces import StudySpec, TrialConfig
from ..spaces.datasets import Dataset
from .accounting import network_cost
from .bounds import ReLUStates, relu_states, trace, unstable_relu_fraction
from .checkpoint import Checkpoint
from .compaction import Compaction, compact
from .dense_stage import DenseStage
from .errors import CheckpointError, Diverged, Left
from .layer_measures import GRADIENT_SAMPLES, TIGHTNESS_SAMPLES, LayerMeasures, layer_measures
from .methods import Methods, fingerprint
from .seeds import derived_seed
from .training import Leaving, Training, stay
from .verification import CascadeOptions, Cause, Verdict, Verification, verified_over_grid, verify
from .verification.options import ATTACK

LEFT = "left"
"""Where a trial is saved whose process has to end between two rungs."""


class Trial:
    """One configuration of a study, trained and scored rung by rung.

    What another trial of the study has stored of the same dense stage is taken over, and what this one trains of it is
    left for others. Nobody waits: two trials that train the same stage at once end with the same network.

    Args:
        config: the configuration.
        spec: the study it belongs to.
        data: its data set; training sees the training split only, the search the validation split only.
        location: the study's folder, where checkpoints go; None keeps none, and shares none.
        parents: where the checkpoint of a parent is found, if not at `location`.
        allow_code: whether an architecture of the user's own may run.

    Raises:
        SpecError: the configuration is impossible.
    """

    def __init__(
        self,
        config: TrialConfig,
        spec: StudySpec,
        data: Dataset,
        *,
        location: Location | None = None,
        parents: Location | None = None,
        allow_code: bool = False,
    ) -> None:
        self._config, self._spec, self._data, self._location = config, spec, data, location
        self._parents = parents or location
        self._fingerprint = fingerprint(config, spec)
        self._device = torch.device("cuda" if spec.resources.gpus_per_trial and torch.cuda.is_available() else "cpu")
        self._verify_seconds = 0.0
        self._came_by_left = False
        self._stage = DenseStage.of(config, spec, len(data.train.y))
        methods = Methods.of(config)
        self._loss, self._parent = methods.loss, methods.start.parent
        self._training = Training(
            methods,
            config.target_sparsity,
            spec,
            data,
            config.seed,
            self._stage,
            device=self._device,
            allow_code=allow_code,
        )

    @property
    def finished(self) -> bool:
        """Whether the last rung is reached."""
        return self._training.epoch >= self._spec.epochs

    def advance(self, leaving: Leaving = stay) -> Record:
        """Train to the next rung, score on the validation split, save, and report.

        Args:
            leaving: asked before each epoch whether this process has to end.

        Raises:
            Left: it has; the trial is saved as it is then, for `restore_left`.
            Diverged: the loss is not finite.
            SoundnessError: a sample was verified and falsified at once.
        """
        began = self._training.epoch
        rung = next(index for index, epoch in enumerate(self._spec.rungs) if epoch > began)
        self._train_until(self._spec.rungs[rung], leaving)
        if self._training.epoch < self._spec.rungs[rung]:
            if self._training.epoch > began:
                self._save(LEFT)
            raise Left
        record = self._score(rung, "validation")
        if self._location is None:
            return record
        path = self._save(f"rung-{rung}")
        if self._came_by_left:
            with storage_errors(f"write to {self._location.shown}", "make it writable"):
                self._location.remove_folder(checkpoint_path(self._config.trial_id, LEFT))
            self._came_by_left = False
        return replace(record, checkpoint=path)

    def restore(self, path: str) -> None:
        """Go on from the checkpoint at `path` of the study.

        Raises:
            CheckpointError: it is unreadable or belongs to another configuration.
        """
        assert self._location is not None
        self._restore(Checkpoint.load(self._location, path))

    def restore_left(self) -> None:
        """Go on from where a process was told to end on the way from here to the next rung, if one was."""
        assert self._location is not None
        path, began = checkpoint_path(self._config.trial_id, LEFT), self._training.epoch
        # One that is torn counts as none, and one from before the last rung is out of date.
        with contextlib.suppress(CheckpointError):
            checkpoint = Checkpoint.load(self._location, path)
            if began < checkpoint.epoch < next((epoch for epoch in self._spec.rungs if epoch > began), began):
                self._restore(checkpoint)
                self._came_by_left = True

    def _restore(self, checkpoint: Checkpoint) -> None:
        self._training.restore(checkpoint, self._fingerprint)
        self._verify_seconds = checkpoint.verify_seconds

    def _save(self, name: str) -> str:
        """The path of a checkpoint of the present state."""
        assert self._location is not None
        path = checkpoint_path(self._config.trial_id, name)
        self._training.checkpoint(self._fingerprint, self._verify_seconds).save(self._location, path)
        return path

    def score_on_test(self) -> Record:
        """Score the finished network on the test split; the search never calls this."""
        return self._score(len(self._spec.rungs) - 1, "test")

    def _train_until(self, epoch: int, leaving: Leaving = stay) -> None:
        if self._parent is not None and self._training.epoch == 0:
            if self._parents is None:
                raise CheckpointError(f"trial {self._parent} cannot be the parent: there is no study to find it in")
            last = checkpoint_path(self._parent, f"rung-{len(self._spec.rungs) - 1}")
            self._training.begin_from(Checkpoint.load(self._parents, last))
        dense = min(epoch, self._stage.epochs)
        if self._training.epoch < dense:
            self._pass_through_stage(dense, leaving)
        self._training.train_until(epoch, leaving)

    def _pass_through_stage(self, epoch: int, leaving: Leaving) -> None:
        """Reach `epoch` of the dense stage: from where others have come to, and left for others."""
        training, stage, location = self._training, self._stage, self._location
        found = stage.find(location, training.epoch, epoch) if location else None
        if found is not None:
            training.take_over(found)
        if training.epoch < epoch:
            training.train_stage_until(epoch, leaving)
            if location is not None and training.epoch == epoch:
                stage.leave(location, training.stage_checkpoint())

    def _score(self, rung: int, split_name: str) -> Record:
        with self._training.averaged():
            return self._score_network(rung, split_name)

    def _score_network(self, rung: int, split_name: str) -> Record:
        spec, data, network, graph = self._spec, self._data, self._training.network, self._training.graph
        split = data.test if split_name == "test" else data.validation
        limit = spec.verification.test_samples if split_name == "test" else spec.verification.samples
        chosen = fixed_subset(len(split.y), limit, split_name)
        x = torch.from_numpy(split.x[chosen]).to(self._device)
        y = torch.from_numpy(split.y[chosen]).to(self._device)
        last = rung == len(spec.rungs) - 1
        options = cascade_options(spec, spec.verification.stages_of(split_name, last=last))
        region: dict[str, Any] = {
            "low": data.low,
            "high": data.high,
            "scale": self._training.scale,
            "norm": spec.norm,
        }
        started = time.perf_counter()
        self._check_finite(x, options.batch_size)
        # What is verified, and what it costs, is of the network that would be deployed; the rest of the one asked for.
        compaction = compact(network, data.shape)
        deployed = compaction.network if compaction.smaller else network
        scores = verify(
            deployed,
            x,
            y,
            epsilon=spec.epsilon,
            **region,
            options=options,
            seed=derived_seed("attack", split_name, rung),
        )
        ramp = self._training.ramp * spec.epsilon
        grid = [*(fraction * spec.epsilon for fraction in spec.verification.grid), ramp]
        known = scores.verdict == Verdict.verified
        over_grid = verified_over_grid(
            deployed,
            x,
            y,
            grid,
            **region,
            options=options,
            known=known,
        )
        states = relu_states(graph, self._training.region(x, spec.epsilon))
        # Of the validation split alone: they explain what the search decides on.
        measures = self._measure_layers(x, states, compaction) if split_name == "validation" else None
        self._verify_seconds += time.perf_counter() - started
        verified_low, verified_high = wilson_interval(scores.n_verified, len(y))
        cost = network_cost(graph)
        deployed_cost = network_cost(trace(deployed, data.shape))
        return Record(
            event="report",
            trial_id=self._config.trial_id,
            config=self._config.values_json(),
            fingerprint=self._fingerprint,
            seed=self._config.seed,
            data=data.name,
            rung=rung,
            split=split_name,
            epoch=self._training.epoch,
            budget=float(spec.rungs[rung]),
            epsilon=spec.epsilon,
            samples=len(y),
            natural_accuracy=scores.natural_accuracy,
            adversarial_accuracy=scores.adversarial_accuracy if ATTACK in options.stages else None,
            verified_accuracy=scores.verified_accuracy,
            verified_low=verified_low,
            verified_high=verified_high,
            verified_auc=float(over_grid[:-1].mean()),
            verified_ramp=float(over_grid[-1]) if ramp else scores.natural_accuracy,
            n_verified=scores.n_verified,
            n_falsified=scores.n_falsified,
            n_unknown=scores.n_unknown,
            sparsity=cost.sparsity,
            target_sparsity=self._config.target_sparsity,
            nonzero_weights=cost.nonzero_weights,
            total_weights=cost.total_weights,
            macs=deployed_cost.macs,
            size_bytes=deployed_cost.size_bytes,
            layer_densities=json.dumps(cost.layer_densities, separators=(",", ":")),
            other_parameters=cost.other_parameters,
            dense_bytes=deployed_cost.dense_bytes,
            bitmask_bytes=deployed_cost.bitmask_bytes,
            csr_bytes=deployed_cost.csr_bytes,
            layer_measures=json.dumps(measures, separators=(",", ":")) if measures is not None else None,
            dense_stage=self._stage.key if self._stage.epochs else None,
            unstable_relu_fraction=unstable_relu_fraction(states.values()),
            train_seconds=self._training.train_seconds,
            verify_seconds=self._verify_seconds,
            shared_seconds=self._training.shared_seconds,
            error=_unbounded(scores),
        )

    def _measure_layers(
        self, x: torch.Tensor, states: Mapping[int, ReLUStates], compaction: Compaction
    ) -> LayerMeasures:
        data, training = self._data, self._training
        some = x[fixed_subset(len(x), TIGHTNESS_SAMPLES, "tightness")]
        return layer_measures(
            training.graph,
            training.mask,
            states=states,
            units=compaction.layers,
            region=training.region(some, self._spec.epsilon),
            loss=self._loss,
            batch=training.batch(fixed_subset(len(data.train.y), GRADIENT_SAMPLES, "gradient")),
        )

    @torch.no_grad()
    def _check_finite(self, x: torch.Tensor, batch_size: int) -> None:
        """Finite weights may still be large enough for the logits to overflow: such a network has no accuracy."""
        network = self._training.network.eval()
        if not all(bool(network(batch).isfinite().all()) for batch in x.split(batch_size)):
            raise Diverged(
                f"the logits are not finite after epoch {self._training.epoch}; "
                "a lower optimizer.learning_rate may help"
            )


def run_trial(
    config: TrialConfig,
    spec: StudySpec,
    data: Dataset,
    *,
    location: Location | None = None,
    on_report: Callable[[Record], bool] = lambda record: True,
    allow_code: bool = False,
) -> list[Record]:
    """Run one trial to its end, or until `on_report` returns False; an ordinary function, without Ray.

    Returns:
        One record per rung reached, on the validation split.

    Raises:
        TrialError: the trial diverged or a verifier was caught unsound.
    """
    trial = Trial(config, spec, data, location=location, allow_code=allow_code)
    records: list[Record] = []
    while not trial.finished:
        records.append(trial.advance())
        if not on_report(records[-1]):
            break
    return records


def fixed_subset(available: int, limit: int | None, purpose: str) -> list[int]:
    """Indices of at most `limit` of `available` samples: the same for every trial of every study."""
    if limit is None or limit >= available:
        return list(range(available))
    order = torch.randperm(available, generator=torch.Generator().manual_seed(derived_seed("subset", purpose)))
    return sorted(order[:limit].tolist())


def _unbounded(scores: Verification) -> str | None:
    """Why samples were not bounded as far as asked, where a verifier failed or cannot bound this network."""
    reasons = Counter(scores.reason[scores.cause == Cause.failure].tolist())
    return "; ".join(f"{count} samples unknown: {reason}" for reason, count in reasons.most_common(3)) or None


def cascade_options(spec: StudySpec, stages: Sequence[str]) -> CascadeOptions:
    """The verification cascade that a study asks for, with these of its stages."""
    asked = {field.name: getattr(spec.verification, field.name) for field in fields(CascadeOptions)}
    return CascadeOptions(**asked | {"stages": tuple(stages)})
