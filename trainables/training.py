"""The one training loop: sparsify on schedule, ramp epsilon, step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..spaces import StudySpec
from ..spaces.datasets import Dataset
from .averaging import Average
from .bounds import Region, input_region, trace
from .certified_training import RAMPS, Batch
from .checkpoint import Checkpoint
from .compaction import InTraining, Trained
from .dense_stage import DenseStage
from .errors import CheckpointError, Diverged
from .mask import Mask, prunable_weights
from .methods import Methods
from .optimizers import load_optimizer, optimizer_tensors
from .pruning import Candidates
from .seeds import derived_seed, generator
from .sparsification import Sparsification
from .steps import Steps

Leaving = Callable[[], bool]
"""Whether this process has been asked to end, for whoever can save what there is."""


def stay() -> bool:
    """Nobody has asked."""
    return False


class Training:
    """One network on its way from initialisation to the last epoch.

    Progress, the ramp and all schedules count optimizer steps; randomness is derived from the seed and the epoch.
    A training that is saved and loaded between epochs goes on exactly as one that was never interrupted. Once the mask
    stands still, what it has killed takes no part in training; `network` is whole again whenever training stops.

    Args:
        methods: what to train, prune and optimise with.
        target_sparsity: fraction of weights to remove in the end.
        spec: the study's constants: epochs, batch size, epsilon, ramp.
        data: the training split is the only one looked at.
        seed: of pruning, and of initialisation and data order outside the dense stage.
        stage: the dense stage; its own seed is that of initialisation and data order within it.
        device: where to train.
        allow_code: whether an architecture of the user's own may run.

    Attributes:
        scale: the radius of each feature as a multiple of epsilon; a tensor broadcasts to the shape of an input.
    """

    def __init__(
        self,
        methods: Methods,
        target_sparsity: float,
        spec: StudySpec,
        data: Dataset,
        seed: int,
        stage: DenseStage,
        *,
        device: torch.device,
        allow_code: bool = False,
    ) -> None:
        self._methods, self._target, self._spec, self._data = methods, target_sparsity, spec, data
        self._seed, self._stage, self._device = seed, stage, device
        self.scale: float | Tensor = 1.0
        if spec.epsilon_scale is not None:
            self.scale = torch.tensor(spec.epsilon_scale, dtype=torch.float32, device=device)
        self._steps = Steps.of(spec, len(data.train.y))
        self._ramp = RAMPS[spec.ramp.shape](spec.ramp.start * self._steps.total, spec.ramp.end * self._steps.total)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self._seed_in(0), "build"))
            self.network: nn.Sequential = methods.build_network(data.shape, data.classes, allow_code=allow_code)
        drawn = generator(self._seed_in(0), "initialise")
        methods.initialisation.initialise_(self.network, Mask.dense(self.network), drawn)
        self.network.to(device)
        self.graph = trace(self.network, data.shape)
        self._optimizer = methods.optimizer.build(self.network.parameters())
        self._average = Average(self.network, methods.optimizer.average) if methods.optimizer.average else None
        self._sparsification = Sparsification(
            methods, target_sparsity, self._steps.total, self.network, self._optimizer, self._candidates, seed
        )
        self._compacted: InTraining | None = None
        self.epoch = 0
        self.train_seconds = 0.0
        self.shared_seconds = 0.0

    def begin_from(self, parent: Checkpoint) -> None:
        """Before the first step, take over from the parent what `start` says.

        Raises:
            CheckpointError: the parent is a network of other layers.
        """
        try:
            self._sparsification.begin_with(self._methods.start.begin_(self.network, parent))
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"trial {self._methods.start.parent} cannot be the parent: {error}") from error

    def train_until(self, epoch: int, leaving: Leaving = stay) -> None:
        """Train until `epoch` epochs are done, or until `leaving` says so between two of them.

        Raises:
            Diverged: the loss, or in the end a weight, is not finite.
        """
        with self._timed():
            self._train_epochs(epoch, leaving)
            # A schedule may fall due exactly at the end of an epoch.
            self._sparsification.at_rest(self.epoch * self._steps.per_epoch)
            if self._average:
                self._average.prune_(self.mask)
            self._check_finite()

    def train_stage_until(self, epoch: int, leaving: Leaving = stay) -> None:
        """Train until `epoch` epochs of the dense stage are done, or until `leaving` says so between two of them; what
        falls due at its very end is not pruned yet.

        Raises:
            Diverged: the loss, or in the end a weight, is not finite.
        """
        with self._timed():
            self._train_epochs(epoch, leaving)
            self._check_finite()

    @property
    def ramp(self) -> float:
        """Position on the epsilon ramp, epsilon / target epsilon, in [0, 1]."""
        step = self.epoch * self._steps.per_epoch
        # A ramp that is about to be sent back has been where it was.
        rewinds = self._methods.schedule.due(step, self._steps.total).rewind
        return self._ramp_at(step - 1 if rewinds else step)

    @property
    def mask(self) -> Mask:
        """The weights kept at present."""
        return self._sparsification.mask

    def batch(self, chosen: Sequence[int]) -> Batch:
        """Some samples of the training split, with their regions where the ramp is."""
        return self._batch(np.asarray(chosen), self.ramp, derived_seed(self._seed, "batch", self.epoch))

    def region(self, x: Tensor, epsilon: float) -> Region:
        """Where inputs around `x`, `(batch, *shape)`, may lie by the study's norm, input range and scales."""
        return input_region(x, epsilon, self._data.low, self._data.high, self.scale, self._spec.norm)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it `network` is what is to be scored and deployed: the average, where weights are averaged."""
        with self._average.in_place() if self._average else nullcontext():
            yield

    def checkpoint(self, fingerprint: str, verify_seconds: float) -> Checkpoint:
        """The state between two epochs; at the last one without the optimizer."""
        optimizer: dict[str, Tensor] = {}
        if self.epoch < self._spec.epochs:
            optimizer = optimizer_tensors(self._optimizer, self._parameters)
            optimizer |= self._average.iterate() if self._average else {}
        return Checkpoint(
            epoch=self.epoch,
            weights=self._average.state if self._average else dict(self.network.state_dict()),
            mask=self.mask,
            optimizer=optimizer,
            train_seconds=self.train_seconds,
            verify_seconds=verify_seconds,
            shared_seconds=self.shared_seconds,
            fingerprint=fingerprint,
            pruner=self._sparsification.tensors(),
        )

    def stage_checkpoint(self) -> Checkpoint:
        """The state within the dense stage or at its end, for any trial that begins with the same stage.

        Its `train_seconds` are what the stage has cost in all, whoever spent them.
        """
        seconds = self.train_seconds + self.shared_seconds
        return replace(self.checkpoint(self._stage.key, 0.0), train_seconds=seconds, shared_seconds=0.0)

    def restore(self, checkpoint: Checkpoint, fingerprint: str) -> None:
        """Go on from a checkpoint of the same configuration.

        Raises:
            CheckpointError: it belongs to another configuration.
        """
        if checkpoint.fingerprint != fingerprint:
            raise CheckpointError(
                f"the checkpoint is of configuration {checkpoint.fingerprint}, this trial's is {fingerprint}"
            )
        self._load(checkpoint)
        self.train_seconds, self.shared_seconds = checkpoint.train_seconds, checkpoint.shared_seconds

    def take_over(self, stage: Checkpoint) -> None:
        """Go on from a checkpoint of the dense stage, in place of training up to there.

        What it cost beyond what this trial has spent on the stage already becomes `shared_seconds`.
        """
        self._load(stage)
        self.shared_seconds = max(self.shared_seconds, stage.train_seconds - self.train_seconds)

    def _load(self, checkpoint: Checkpoint) -> None:
        self._compacted = None
        optimizer = checkpoint.optimizer
        if self._average:
            optimizer = self._average.load_(checkpoint.weights, optimizer)
        else:
            self.network.load_state_dict(checkpoint.weights)
        self._sparsification.load_(checkpoint.mask, checkpoint.pruner)
        load_optimizer(self._optimizer, self._parameters, optimizer)
        self.epoch = checkpoint.epoch

    @property
    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def _seed_in(self, epoch: int) -> int:
        """The seed that drives an epoch, counted from 0; initialisation belongs to the first."""
        return self._stage.seed if epoch < self._stage.epochs else self._seed

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.train_seconds += time.perf_counter() - started

    def _train_epochs(self, until: int, leaving: Leaving) -> None:
        while self.epoch < until and not leaving():
            self._train_epoch()
            self.epoch += 1
        # Whoever goes on from here, this training or one that loads its checkpoint, begins with the whole network.
        if self._compacted is not None:
            self._compacted.expand_()
            self._compacted = None

    def _train_epoch(self) -> None:
        self.network.train()
        samples = len(self._data.train.y)
        order = torch.randperm(samples, generator=generator(self._seed_in(self.epoch), "order", self.epoch)).numpy()
        for index in range(self._steps.per_epoch):
            step = self.epoch * self._steps.per_epoch + index
            self._sparsification.before_step(step, self._ramp_at(step))
            if self._average and (step == 0 or self._methods.schedule.due(step, self._steps.total).rewind):
                self._average.restart_()
            # The remainder below a whole batch is left out; the next epoch's order leaves out others.
            chosen = order[index * self._steps.batch_size : (index + 1) * self._steps.batch_size]
            seed = derived_seed(self._seed_in(self.epoch), "attack", step)
            self._step(self._batch(chosen, self._ramp_at(step), seed), step)
            if self._average and self._sparsification.learning:
                # The mask of the moment shows what frozen weights are worth: nothing to average.
                self._average.restart_()
            elif self._average:
                self._average.update_(self.mask)

    def _position(self, step: int) -> float:
        """Where the ramp and the learning rate are, in [0, 1]: the schedule may send them back."""
        return self._methods.schedule.due(step, self._steps.total).position

    def _ramp_at(self, step: int) -> float:
        return self._ramp.value(self._position(step) * self._steps.total)

    def _batch(self, chosen: NDArray[np.int64], ramp: float, seed: int) -> Batch:
        x = torch.from_numpy(self._data.train.x[chosen]).to(self._device)
        y = torch.from_numpy(self._data.train.y[chosen]).to(self._device)
        region = self.region(x, ramp * self._spec.epsilon * self._methods.loss.epsilon_factor)
        return Batch(x, y, region, ramp, low=self._data.low, high=self._data.high, seed=seed)

    def _trained(self, step: int) -> Trained:
        """What an optimizer step works on."""
        whole = Trained(self.graph, self.mask, self._optimizer)
        # An average is one of the whole network.
        if self._average or not self._sparsification.settled(step):
            return whole
        if self._compacted is None:
            self._compacted = InTraining(whole, self._methods.optimizer.build)
        return self._compacted.trained

    def _step(self, batch: Batch, step: int) -> None:
        graph, mask, optimizer = self._trained(step)
        regulariser = self._methods.regulariser
        batch = replace(batch, boxes={} if regulariser.reads_boxes else None)
        with self._precision():
            loss = self._methods.loss.loss(graph, batch)
            loss = loss + regulariser.penalty(graph, batch)
        self._check_step("loss", loss, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self._sparsification.learning:
            gradients = [weight.grad for weight in graph.network.parameters() if weight.grad is not None]
            self._check_step("norm of the gradient", nn.utils.get_total_norm(gradients), batch)
            self._sparsification.learn_()
            return
        mask.zero_gradients_(graph.network)
        self._methods.optimizer.add_l1_(prunable_weights(graph.network).values())
        # One that overflows would be clipped to nothing, step by step.
        norm = nn.utils.clip_grad_norm_(graph.network.parameters(), self._methods.optimizer.clip)
        self._check_step("norm of the gradient", norm, batch)
        rate = self._methods.optimizer.rate(self._position(step))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        mask.apply_(graph.network)

    def _precision(self) -> torch.autocast:
        """Within it products are of the study's precision."""
        reduced = self._spec.precision != "float32"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=reduced)

    def _check_step(self, what: str, value: torch.Tensor, batch: Batch) -> None:
        if not torch.isfinite(value):
            raise Diverged(
                f"the {what} became {value.item()} in epoch {self.epoch + 1} at epsilon "
                f"{batch.ramp * self._spec.epsilon:.3g}; "
                "a lower optimizer.learning_rate or a longer ramp may help"
            )

    def _check_finite(self) -> None:
        """Loss and gradient are looked at in each step; the last step may still have gone astray."""
        broken = [name for name, value in self.network.state_dict().items() if not bool(value.isfinite().all())]
        if broken:
            raise Diverged(
                f"{broken[0]} is not finite after epoch {self.epoch}; a lower optimizer.learning_rate may help"
            )

    def _candidates(self, step: int) -> Candidates:
        """What decisions on the mask at a step are based on."""

        def batches(count: int, ramp: float) -> Iterator[Batch]:
            samples = len(self._data.train.y)
            for number in range(count):
                drawn = torch.randperm(samples, generator=generator(self._seed, "score", step, number)).numpy()
                seed = derived_seed(self._seed, "score attack", step, number)
                yield self._batch(drawn[: self._steps.batch_size], ramp, seed)

        return Candidates(self.graph, generator(self._seed, "prune", step), self._methods.loss, batches)
