"""The student as it learns: its trainable parameters, their optimizer, and their moving average."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import Condition, Example, Query, Target, Tensors, Variant, Weights
from fields.families.base import Family
from fields.memory.cost import Pass
from fields.memory.rehearsal import largest_query, rehearsing
from fields.method.objective import Objective, Prediction, VelocityMse, squared_error
from fields.student import Student
from fields.tensors import load_into


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimization:
    """How the student is updated: AdamW without weight decay.

    Attributes:
        learning_rate: of AdamW, at its highest.
        betas: of AdamW.
        warmup_steps: steps over which the rate rises from 0.
        decay: from the first of these numbers of steps to the second the rate falls linearly to 0; None is the paper's
            constant rate.
        clip: largest norm of the gradient.
        ema_decay: of the moving average that is evaluated and exported beside the student, in [0, 1).
        micro_batch: most samples of one forward and backward; None takes every group whole. It orders the sums of a
            gradient, and so it is part of what decides a student's last bits.
        recompute: whether a block's activations are computed again in the backward instead of kept (Chen et al.,
            arXiv 1604.06174): a fraction of the memory for about a third more time, and the same bits.
    """

    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    decay: tuple[int, int] | None = None
    clip: float = 1.0
    ema_decay: float = 0.99
    micro_batch: int | None = None
    recompute: bool = False

    def rate(self, update: int) -> float:
        """The learning rate of an update, the first of which is number 1.

        >>> schedule = Optimization(learning_rate=1.0, warmup_steps=4, decay=(6, 9))
        >>> [schedule.rate(update) for update in (1, 4, 6, 8, 10)]
        [0.25, 1.0, 1.0, 0.5, 0.0]
        """
        rising = min(1.0, update / max(1, self.warmup_steps))
        if self.decay is None:
            return self.learning_rate * rising
        first, last = self.decay
        return self.learning_rate * rising * min(1.0, max(0.0, (last + 1 - update) / (last + 1 - first)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one optimizer step did: losses are means over samples (and over or of their queries, as the objective says), per
    route over that route's samples."""

    loss: float
    route_loss: dict[str, float]
    route_samples: dict[str, int]
    route_target_norm: dict[str, float]
    gradient_norm: float


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
    ):
        self.objective = objective or VelocityMse()
        self.anchor_weight = anchor_weight
        self.family = family
        self.student = student
        self.optimization = optimization
        self.device = device or torch.device("cpu")
        self.transformer = transformer.to(self.device)
        if optimization.recompute:
            family.recompute_activations(self.transformer)
        self.parameters = student.attach(self.transformer, seed)
        if start is not None:
            load_into(self.parameters, start, "the student's start")
            student.refresh(self.transformer, self.parameters)
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=optimization.learning_rate, betas=optimization.betas, weight_decay=0.0
        )
        self.ema = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.updates = 0

    def predict(self, query: Query) -> Prediction:
        """v_theta at the query's states, with gradient."""
        condition = query.condition.to(self.device)
        velocity = self._velocity(query, condition)
        if not query.both_branches:
            return Prediction(velocity=velocity)
        return Prediction(velocity=velocity, unconditional=self._velocity(query, condition.variant(Variant(prompt="empty"))))

    @torch.no_grad()
    def velocity(self, query: Query) -> Float[Tensor, "batch ..."]:
        """v_theta at the query's states, on the CPU."""
        return self._velocity(query, query.condition.to(self.device)).cpu()

    def _velocity(self, query: Query, condition: Condition) -> Tensor:
        return self.family.velocity(self.transformer, query.x_t.to(self.device), query.t.to(self.device), condition)

    def loss(self, example: Example) -> Float[Tensor, " batch"]:
        """Each sample's loss at one of its queries, float32 (batch,), with gradient."""
        student = self.predict(example.query)
        target = example.target.to(self.device)
        loss = self.objective.loss(student, target, example.query)
        if example.anchor is not None:
            anchor = example.anchor.velocity.to(self.device)
            loss = loss + self.anchor_weight * squared_error(student.velocity, anchor)
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
            query = largest_query(self.family, at_once)
            zeros = torch.zeros_like(query.x_t)
            answer = Target(sample_ids=query.sample_ids, expert=query.route, t=query.t, velocity=zeros, unconditional=zeros)
            example = Example(query=query, target=answer, anchor=answer if self.anchor_weight else None)
            for _ in range(2):  # the second finds the gradients of the first in its way, as in a step of several groups
                self.loss(example).sum().backward()
            del moments
        self.optimizer.zero_grad(set_to_none=True)

    def update(self, examples: Sequence[Example]) -> Update:
        """One optimizer step on the mean loss over all samples; each micro-batch's graph is freed before the next is built,
        so memory doesn't grow with the number of samples, nor with the queries that each has.

        Raises:
            ValueError: if query and target are of different samples.
            FloatingPointError: if the loss or the gradient is not finite; the student is left as it was.
        """
        rows = sum(len(example.query.sample_ids) for example in examples)
        samples = len({sample_id for example in examples for sample_id in example.query.sample_ids})
        divisor = samples if self.objective.over_queries == "sum" else rows
        losses: dict[str, list[Tensor]] = {}
        norms: dict[str, list[Tensor]] = {}
        ids: dict[str, set[int]] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for example in (part for whole in examples for part in whole.split(self.optimization.micro_batch)):
            query, target = example.query, example.target
            if query.sample_ids != target.sample_ids:
                raise ValueError(f"expert {target.expert!r} answered {target.sample_ids}, asked were {query.sample_ids}")
            loss = self.loss(example)
            if not bool(loss.isfinite().all()):
                raise FloatingPointError(
                    f"loss is not finite: expert {target.expert!r}, samples {query.sample_ids}, t {query.t.tolist()}"
                )
            (loss.sum() / divisor).backward()
            losses.setdefault(query.route, []).append(loss.detach())
            norms.setdefault(query.route, []).append(target.velocity.flatten(1).square().mean(dim=1).sqrt())
            ids.setdefault(query.route, set()).update(query.sample_ids)
        gradient_norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.optimization.clip)
        if not bool(gradient_norm.isfinite()):
            raise FloatingPointError(f"gradient norm is {gradient_norm.item()} over samples of {sorted(losses)}")
        self._step()
        route_loss = {route: torch.cat(values) for route, values in losses.items()}
        return Update(
            loss=torch.cat(list(route_loss.values())).sum().item() / divisor,
            route_loss={route: values.sum().item() * rows / divisor / len(values) for route, values in route_loss.items()},
            route_samples={route: len(members) for route, members in ids.items()},
            route_target_norm={route: torch.cat(values).mean().item() for route, values in norms.items()},
            gradient_norm=gradient_norm.item(),
        )

    @torch.no_grad()
    def _step(self) -> None:
        self.updates += 1
        for parameter in self.parameters.values():
            if parameter.grad is None:  # unused by these samples: its moments must count the step all the same
                parameter.grad = torch.zeros_like(parameter)
        for group in self.optimizer.param_groups:
            group["lr"] = self.optimization.rate(self.updates)
        self.optimizer.step()
        self.student.refresh(self.transformer, self.parameters)
        # A young average forgets faster, or its start would outweigh a short run.
        decay = min(self.optimization.ema_decay, self.updates / (self.updates + 10))
        for name, parameter in self.parameters.items():
            self.ema[name].lerp_(parameter.detach(), 1 - decay)

    def weights(self, policy_version: int) -> Weights:
        """The student's trainable tensors as they are now."""
        return Weights.of(policy_version, self.parameters)

    def averaged_weights(self, policy_version: int) -> Weights:
        """The moving average of the student's trainable tensors."""
        return Weights.of(policy_version, self.ema)

    def optimizer_tensors(self) -> dict[str, Float[Tensor, "..."]]:
        """AdamW's moments by parameter name, for a checkpoint."""
        state = self.optimizer.state
        return {
            f"{kind}/{name}": state[parameter][kind].clone()
            for name, parameter in self.parameters.items()
            if parameter in state
            for kind in ("exp_avg", "exp_avg_sq")
        }

    def restore(self, tensors: Tensors, ema: Tensors, optimizer_tensors: Tensors, updates: int) -> None:
        """Continue where a checkpoint stopped: the next update is the one that the undisturbed run would make.

        Raises:
            ValueError: if the tensors don't fit the student in full.
        """
        load_into(self.parameters, tensors, "checkpoint")
        self.student.refresh(self.transformer, self.parameters)
        load_into(self.ema, ema, "checkpoint's moving average")
        self.updates = updates
        self.optimizer.state.clear()
        for kind in ("exp_avg", "exp_avg_sq"):
            found = {n.removeprefix(f"{kind}/"): t for n, t in optimizer_tensors.items() if n.startswith(f"{kind}/")}
            if updates == 0 and not found:
                continue
            moments = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
            load_into(moments, found, f"checkpoint's optimizer ({kind})")
            for name, parameter in self.parameters.items():
                self.optimizer.state[parameter]["step"] = torch.tensor(float(updates))
                self.optimizer.state[parameter][kind] = moments[name]
