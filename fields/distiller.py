"""The student as it learns: its trainable parameters, their optimizer, and their moving average."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fields.carriers import Condition, Example, Outline, Query, Target, Tensors, Variant, Weights
from fields.families.base import Family
from fields.memory.cost import Pass
from fields.memory.rehearsal import largest_query, rehearsing
from fields.method.objective import Objective, Prediction, VelocityMse, squared_error
from fields.method.optimization import Optimization
from fields.ranks.ranks import Alone, Ranks
from fields.ranks.share import Learned, Share, require_finite
from fields.student import Student
from fields.tensors import check_shapes, load_into, shapes
from fields.update import Update

MOMENTS = ("exp_avg", "exp_avg_sq")  # as AdamW calls the means of a gradient and of its square


class Distiller:
    """Updates the student towards the experts' velocities at the student's own states.

    Args:
        family: how the network is called.
        transformer: the base; what is trained is put or opened in it.
        student: what is trained.
        optimization: of the student.
        seed: of what is random about a fresh student.
        start: trainable tensors to start from; None starts from the base.
        objective: what is minimised.
        anchor_weight: of the squared distance to the anchor's velocity; 0 without an anchor.
        device: where it computes.
        ranks: the processes that share its updates, connected; each has a distiller like this one.
        largest: pass of a run, of which ranks that share weights compute a sample for nothing; None is of the family's size.

    Raises:
        ValueError: if `start` doesn't fit the student in full.
    """

    def __init__(
        self,
        family: Family,
        transformer: nn.Module,
        student: Student,
        optimization: Optimization,
        seed: int,
        start: Tensors | None = None,
        objective: Objective | None = None,
        anchor_weight: float = 0.0,
        device: torch.device | None = None,
        ranks: Ranks | None = None,
        largest: Pass | None = None,
    ):
        self.ranks = ranks or Alone()
        self.objective = objective or VelocityMse()
        self.anchor_weight = anchor_weight
        self.family = family
        self.student = student
        self.optimization = optimization
        self.device = device or torch.device("cpu")
        self.transformer, blocks = transformer, family.blocks(transformer)
        self.ranks.place(transformer, blocks, self.device)
        if optimization.recompute:
            family.recompute_activations(self.transformer)
        self.parameters = student.attach(self.transformer, seed)
        self.ranks.share_frozen(self.transformer, blocks, self.parameters)
        if start is not None:
            load_into(self.parameters, start, "the student's start")
            student.refresh(self.transformer, self.parameters)
        own = {name: self.parameters[name] for name in self.ranks.owned(self.parameters)}
        self.optimizer = torch.optim.AdamW(
            list(own.values()),
            lr=optimization.learning_rate,
            betas=optimization.betas,
            weight_decay=0.0,
            fused=self.device.type == "cuda",  # one kernel, which needs no memory beside the moments
        )
        self.ema = {name: parameter.detach().clone() for name, parameter in own.items()}
        self.updates = 0
        sources, branches = int(family.source == "required"), 2 if self.objective.both_branches else 1
        self._padding = replace(largest or Pass(1, family.default_size, sources, branches), samples=1)

    @property
    def networks(self) -> Iterable[nn.Module]:
        """The one network, adapters included."""
        return (self.transformer,)

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """Its repeated blocks."""
        return self.family.blocks(self.transformer)

    def begin(self) -> None:
        """Take the start of rank 0, where it alone has computed it; all ranks call this before anything else."""
        self.ranks.copy_first(self.parameters)
        self.student.refresh(self.transformer, self.parameters)
        for name, average in self.ema.items():
            average.copy_(self.parameters[name].detach())

    def predict(self, query: Query) -> Prediction:
        """v_theta at the states of a query on the student's device, with gradient."""
        velocity = self._velocity(query, query.condition)
        if not query.both_branches:
            return Prediction(velocity=velocity)
        empty = query.condition.variant(Variant(prompt="empty"))
        return Prediction(velocity=velocity, unconditional=self._velocity(query, empty))

    @torch.no_grad()
    def velocity(self, query: Query) -> Float[Tensor, "batch ..."]:
        """v_theta at the query's states, on the CPU."""
        here = query.to(self.device)
        return self._velocity(here, here.condition).cpu()

    def _velocity(self, query: Query, condition: Condition) -> Tensor:
        return self.family.velocity(self.transformer, query.x_t, query.t, condition)

    def loss(self, example: Example) -> Float[Tensor, " batch"]:
        """Each sample's loss at one of its queries, float32 (batch,) on the student's device, with gradient."""
        here = example.to(self.device)
        student = self.predict(here.query)
        loss = self.objective.loss(student, here.target, here.query)
        if here.anchor is not None:
            loss = loss + self.anchor_weight * squared_error(student.velocity, here.anchor.velocity)
        return loss

    def rehearse(self, what: Pass) -> None:
        """Compute the largest micro-batch of a group forward and backward, beside what AdamW takes at its first step, and keep
        nothing of it.

        Raises:
            DoesNotFit: if the device has no memory for it.
        """
        at_once = replace(what, samples=min(what.samples, self.optimization.micro_batch or what.samples))
        with rehearsing(at_once):
            moments = [torch.empty_like(parameter) for parameter in self.parameters.values() for _ in range(2)]
            example = self._blank(at_once)
            for _ in range(2):  # the second finds the gradients of the first in its way, as in a step of several groups
                self.loss(example).sum().backward()
            del moments
        self._forget_gradients()

    def _forget_gradients(self) -> None:
        """Of all parameters: the optimizer knows those alone that this rank owns."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def update(self, examples: Sequence[Example]) -> Update:
        """One optimizer step on the mean loss over all samples, by this process alone.

        Raises: as `learn` does.
        """
        (share,) = Share.all([Outline.of(example.query) for example in examples], 1, self.objective.over_queries)
        return Update.of(share, *self.learn(share, examples))

    def learn(self, share: Share, examples: Iterable[Example]) -> tuple[list[Learned], float]:
        """This rank's part of one optimizer step on the mean loss over all samples; every rank has the new student after it.

        Each micro-batch's graph is freed before the next is built, so memory doesn't grow with the number of samples, nor
        with the queries that each has.

        Args:
            share: of this rank.
            examples: at the places of the share, each taken when it is needed.

        Returns:
            What was learned of each of this rank's examples, and the norm of the step's gradient.

        Raises:
            FloatingPointError: if the loss or the gradient is not finite; the student is left as it was.
        """
        self._forget_gradients()
        micro_batches = share.micro_batches(self.optimization.micro_batch)
        gradients = self.ranks.gradients(self.parameters, micro_batches)
        learned = []
        for place, example in zip(share.places, examples, strict=True):
            losses = []
            for part in example.split(self.optimization.micro_batch):
                loss = self.loss(part)
                (loss.sum() / share.divisor).backward()
                gradients.take()
                losses.append(loss.detach())
            learned.append(Learned.of(place, example, torch.cat(losses)))
        for _ in range(self.ranks.padding(micro_batches)):
            self._compute_for_nothing()
            gradients.skip()
        require_finite(learned)  # the first that waits for a GPU: until here the process is ahead of it
        gradients.add_up()
        norm = self._step(sorted({route for one in learned for route in one.routes}))
        return [one.on_host() for one in learned], norm

    def _compute_for_nothing(self) -> None:
        """One sample of no weight, forward and backward: where weights are shared, a rank gathers its part for the others."""
        (0 * self.loss(self._blank(self._padding)).sum()).backward()

    def _blank(self, what: Pass) -> Example:
        """An example as large as a pass, of zeros."""
        query = largest_query(self.family, what)
        zeros = torch.zeros_like(query.x_t)
        answer = Target(sample_ids=query.sample_ids, expert="rehearsal", t=query.t, velocity=zeros, unconditional=zeros)
        return Example(query=query, target=answer, anchor=answer if self.anchor_weight else None)

    @torch.no_grad()
    def _step(self, routes: Sequence[str]) -> float:
        """Clip and apply the gradient of the tensors that this rank owns, and take those of the others; returns the norm of
        all before it was clipped."""
        own = {name: self.parameters[name] for name in self.ranks.owned(self.parameters)}
        norms = {name: torch.linalg.vector_norm(p.grad) for name, p in own.items() if p.grad is not None}
        norm = torch.linalg.vector_norm(torch.stack(self.ranks.joined_norms(norms, list(self.parameters))))
        if not bool(norm.isfinite()):
            raise FloatingPointError(f"gradient norm is {norm.item()} over samples of {list(routes)}")
        nn.utils.clip_grads_with_norm_(own.values(), self.optimization.clip, norm)
        self.updates += 1
        for parameter in own.values():
            if parameter.grad is None:  # unused by these samples: its moments must count the step all the same
                parameter.grad = torch.zeros_like(parameter)
        for group in self.optimizer.param_groups:
            group["lr"] = self.optimization.rate(self.updates)
        self.optimizer.step()
        self.ranks.spread(self.parameters)
        self.student.refresh(self.transformer, self.parameters)
        # A young average forgets faster, or its start would outweigh a short run.
        decay = min(self.optimization.ema_decay, self.updates / (self.updates + 10))
        if own:
            average = get_ema_multi_avg_fn(decay)
            average(list(self.ema.values()), [parameter.detach() for parameter in own.values()], self.updates)
        return norm.item()

    def weights(self, policy_version: int) -> Weights:
        """The student's trainable tensors as they are now; of many ranks all call this, and rank 0 has them."""
        return Weights.of(policy_version, self.ranks.whole(self.parameters))

    def averaged_weights(self, policy_version: int) -> Weights:
        """The moving average of the student's trainable tensors; of many ranks all call this, and rank 0 has it."""
        return Weights.of(policy_version, self.ranks.collect(self.ema, self.parameters))

    def optimizer_tensors(self) -> dict[str, Float[Tensor, "..."]]:
        """AdamW's moments by parameter name, for a checkpoint; of many ranks all call this, and rank 0 has them."""
        if not self.updates:
            return {}
        moments: dict[str, Tensor] = {}
        for kind in MOMENTS:
            collected = self.ranks.collect(self._moments(kind), self.parameters)
            moments |= {f"{kind}/{name}": moment.clone() for name, moment in collected.items()}
        return moments

    def restore(self, tensors: Tensors, ema: Tensors, optimizer_tensors: Tensors, updates: int) -> None:
        """Continue where a checkpoint stopped: the next update is the one that the undisturbed run would make.

        Raises:
            ValueError: if the tensors don't fit the student in full.
        """
        load_into(self.parameters, tensors, "checkpoint")
        self.student.refresh(self.transformer, self.parameters)
        check_shapes(shapes(ema), shapes(self.parameters), "checkpoint's moving average")
        load_into(self.ema, {name: ema[name] for name in self.ema}, "checkpoint's moving average")
        self._begin_moments(updates)
        for kind in MOMENTS if updates else ():
            found = {n.removeprefix(f"{kind}/"): t for n, t in optimizer_tensors.items() if n.startswith(f"{kind}/")}
            check_shapes(shapes(found), shapes(self.parameters), f"checkpoint's optimizer ({kind})")
            load_into(self._moments(kind), {name: found[name] for name in self.ema}, f"checkpoint's optimizer ({kind})")

    def restore_in_place(self, updates: int, read: Callable[[Tensors], None]) -> None:
        """The same from a checkpoint that is read into the tensors that this rank has: its shards, where it shares them.

        Args:
            updates: that were made before.
            read: fills the tensors of `state`.
        """
        self._begin_moments(updates)
        read(self.state())
        self.student.refresh(self.transformer, self.parameters)

    def state(self) -> dict[str, Float[Tensor, "..."]]:
        """All that the next update depends on, beside their number, as far as this rank holds it: the tensors themselves, as
        `student/NAME`, `ema/NAME` and `optimizer/MOMENT/NAME`."""
        state: dict[str, Tensor] = {f"student/{name}": parameter.detach() for name, parameter in self.parameters.items()}
        state |= {f"ema/{name}": average for name, average in self.ema.items()}
        for kind in MOMENTS if self.updates else ():
            state |= {f"optimizer/{kind}/{name}": moment for name, moment in self._moments(kind).items()}
        return state

    def _moments(self, kind: str) -> dict[str, Tensor]:
        """AdamW's moments of the tensors that this rank owns."""
        return {name: self.optimizer.state[self.parameters[name]][kind] for name in self.ema}

    def _begin_moments(self, updates: int) -> None:
        """Make room for what AdamW has after so many updates."""
        self.updates = updates
        self.optimizer.state.clear()
        for name in self.ema if updates else ():
            parameter = self.parameters[name]
            zeros = {kind: torch.zeros_like(parameter) for kind in MOMENTS}
            steps = torch.tensor(float(updates), device=self.device if self.device.type == "cuda" else None)
            self.optimizer.state[parameter] |= {"step": steps} | zeros
