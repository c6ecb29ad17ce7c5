"""The mask in the course of training: what a schedule asks for, done to the network and its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from .bounds import Graph
from .errors import CheckpointError
from .mask import Mask, prunable_weights
from .methods import Methods
from .optimizers import clear_moments_
from .pruning import Candidates, Exchange, LearnedScore, Score, first_due, kept_weights, prune, settled_from
from .pruning.learning import ScoresInTraining
from .pruning.liveness import over_readers
from .seeds import generator

SNAPSHOT = "snapshot"
BEGUN = "begun/kept"


class Sparsification:
    """Whoever drives the training loop calls `before_step`, then `learn_` or a step of the weights; nothing else.

    Args:
        methods: score, distribution, pattern, schedule and initialisation.
        target: fraction of weights to remove in the end.
        steps: optimizer steps of the whole training.
        network: pruned in place.
        optimizer: of the network; what it remembers of pruned weights is zero.
        candidates: what a decision at a step is based on.
        seed: of weights that are drawn anew. Never the source of scores: a kept weight would know why it was kept.

    Attributes:
        mask: the weights kept at present.
    """

    def __init__(
        self,
        methods: Methods,
        target: float,
        steps: int,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        candidates: Callable[[int], Candidates],
        seed: int,
    ) -> None:
        self._methods, self._target, self._steps = methods, target, steps
        self._network, self._optimizer, self._candidates, self._seed = network, optimizer, candidates, seed
        self._weights: Mapping[str, nn.Parameter] = {
            name: parameter for name, parameter in network.named_parameters() if name in prunable_weights(network)
        }
        self.mask = Mask.dense(network)
        # A parent's mask is pruned on from, never filled up.
        self._most = self.mask.kept
        self._snapshot: dict[str, Tensor] = {}
        self._learning: ScoresInTraining | None = None
        self._learning_steps = range(0)
        if isinstance(methods.score, LearnedScore) and target:
            first = first_due(methods.schedule, steps)
            # At least one of learning, and one of finetuning.
            learning = max(1, round(methods.score.span * steps))
            self._learning_steps = range(first, min(first + learning, steps - 1))
        self._settled_from = max(settled_from(methods.schedule, steps), self._learning_steps.stop)

    def begin_with(self, mask: Mask) -> None:
        """Begin with another mask than the dense one."""
        self._set(self._in_order(mask))
        self._most = self.mask.kept

    def settled(self, step: int) -> bool:
        """Whether the mask will never change again, once `before_step` has seen to this step."""
        return step >= self._settled_from

    def before_step(self, step: int, ramp: float) -> None:
        """Do what falls due before an optimizer step, the epsilon ramp being at `ramp`."""
        due = self._methods.schedule.due(step, self._steps)
        if due.exchange is not None:
            self._exchange(step, due.exchange, due.of(self._target), ramp)
        else:
            self._reach(step)
        if due.keep:
            # Once weights are drawn for the mask, if they are. What is pruned by now never comes back.
            self._snapshot = {name: value.clone() for name, value in self._network.state_dict().items()}
        if due.rewind:
            self._network.load_state_dict(self._snapshot)
            self.mask.apply_(self._network)
            self._optimizer.state.clear()
            if due.sparsity == 1:
                self._snapshot = {}

    def at_rest(self, step: int) -> None:
        """Prune what falls due where training stops for now, so that what is scored there is pruned already.

        `before_step` finds it done. Nothing is done where a schedule rewinds, or grows weights that would be untrained.
        """
        due = self._methods.schedule.due(step, self._steps)
        if due.exchange is not None and not due.exchange.grows:
            self._exchange(step, due.exchange, due.of(self._target), 1.0)
        elif due.exchange is None and not due.rewind:
            self._reach(step)

    @property
    def learning(self) -> bool:
        """Whether scores are in training, the weights standing still."""
        return self._learning is not None

    def learn_(self) -> None:
        """One step of the scores in training, in place of the weights, by the gradients that these hold."""
        assert self._learning is not None
        gradients = {name: weight.grad for name, weight in self._weights.items()}
        self._learning.step_({name: gradient for name, gradient in gradients.items() if gradient is not None})
        self._show_learned()

    def tensors(self) -> dict[str, Tensor]:
        """What has to be remembered beside the mask, by `entry/name`."""
        kept = {f"{SNAPSHOT}/{name}": value for name, value in self._snapshot.items()}
        begun = {BEGUN: torch.tensor(self._most)} if self._most < self.mask.total else {}
        return kept | begun | (self._learning.tensors() if self._learning else {})

    def load_(self, mask: Mask, flat: Mapping[str, Tensor]) -> None:
        """Put back a mask and what `tensors` took out.

        Raises:
            CheckpointError: it does not hold what this network and its methods have to remember.
        """
        self.mask = self._in_order(mask)
        prefix = f"{SNAPSHOT}/"
        self._snapshot = {key.removeprefix(prefix): value for key, value in flat.items() if key.startswith(prefix)}
        rest = {key: value for key, value in flat.items() if not key.startswith(prefix)}
        self._learning = None
        try:
            self._most = int(rest.pop(BEGUN, self.mask.total))
            if rest:
                self._learning = self._started()
                self._learning.load_(rest)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's pruning is not that of this network: {error}") from error

    def _in_order(self, mask: Mask) -> Mask:
        """The mask with its layers in the order of the network, which decides between equal scores; a file has none."""
        order = {name: position for position, name in enumerate(self._weights)}
        return Mask(dict(sorted(mask.items(), key=lambda item: order.get(item[0], len(order)))))

    def _reach(self, step: int) -> None:
        """Prune to the sparsity that is due; where scores are learned, start to learn them or fix what they say."""
        if step in self._learning_steps:
            if self._learning is None:
                self._learning = self._started()
                # The weights stand still from now on, and are finetuned afresh in the end.
                self._optimizer.state.clear()
                self._show_learned()
            return
        self._learning = None
        self._set(self._pruned(step, self.mask, self._methods.score))
        sparse_and_fresh = self.mask.kept < self.mask.total and not self._methods.start.brings_weights
        if step == 0 and sparse_and_fresh and self._methods.initialisation.masked_fan_in:
            drawn = generator(self._seed, "initialise sparse")
            self._methods.initialisation.initialise_(self._network, self.mask, drawn)

    def _exchange(self, step: int, exchange: Exchange, sparsity: float, ramp: float) -> None:
        methods, candidates = self._methods, self._candidates(step)
        if methods.pattern.whole_units:
            self._wake(step, candidates.graph)
        kept = min(kept_weights(self.mask.total, sparsity), self._most)
        self._set(exchange.exchange(candidates, self.mask, methods.pattern, methods.distribution, kept, ramp))

    def _started(self) -> ScoresInTraining:
        assert isinstance(self._methods.score, LearnedScore)
        return ScoresInTraining(self._methods.score, self._weights, self.mask)

    def _show_learned(self) -> None:
        assert self._learning is not None
        self._learning.show_(self._weights)
        self._set(self._pruned(self._learning_steps[-1], self._learning.within, self._learning))

    def _pruned(self, step: int, mask: Mask, score: Score) -> Mask:
        return prune(
            self._candidates(step),
            mask,
            score=score,
            distribution=self._methods.distribution,
            pattern=self._methods.pattern,
            sparsity=self._methods.schedule.due(step, self._steps).of(self._target),
        )

    @torch.no_grad()
    def _wake(self, step: int, graph: Graph) -> None:
        """Draw the weights of filters that nothing reads as at initialisation; what reads them stays zero.

        The network so computes what it did. The mask is applied again next.
        """
        drawn = deepcopy(self._network)
        self._methods.initialisation.initialise_(drawn, Mask.dense(drawn), generator(self._seed, "wake", step))
        readers = over_readers(graph, {name: kept.cpu() for name, kept in self.mask.items()})
        for name, values in prunable_weights(drawn).items():
            asleep = (readers[name] == 0).to(values.device) & ~self.mask[name].flatten(1).any(1)
            self._weights[name][asleep] = values[asleep]

    def _set(self, mask: Mask) -> None:
        if mask is self.mask:
            return
        self.mask = mask
        mask.apply_(self._network)
        for name, weight in self._weights.items():
            clear_moments_(self._optimizer, weight, ~mask[name].to(weight.device))
