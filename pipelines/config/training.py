"""How the student is rolled out and updated, and when it is saved."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from pipelines.config.base import MOST_STEPS, Beta, Positive, Section, Shift
from pipelines.config.gpus import known_gpu
from pipelines.config.location import Uri
from pipelines.config.services import Cpus, Gpus, NodeLabels, check_ranks

if TYPE_CHECKING:
    from fields.method.optimization import Optimization
    from fields.method.solver import Solver


class WorkerAutoscaling(Section):
    """The learner adds and ends workers by itself, from `workers` up, until their rollouts keep it busy."""

    most: PositiveInt = Field(description="workers at most")


class RolloutConfig(Section):
    """How rollouts are solved, and the workers that solve the student's."""

    steps: PositiveInt = Field(default=16, le=MOST_STEPS, description="steps from noise to clean")
    solver: Literal["euler", "heun"] = Field(default="euler", description="of the ODE; heun takes two forwards per step")
    shift: Shift | None = Field(default=None, description="of the time grid; none is the model's own, 1 is uniform")
    workers: PositiveInt = Field(
        default=2, description="processes that solve the student's rollouts; with autoscaling the least"
    )
    autoscaling: WorkerAutoscaling | None = Field(
        default=None, description="none keeps the number of workers, until pipelines.scale changes it"
    )
    ranks: PositiveInt = Field(
        default=1,
        description="processes of a worker, each with num_cpus and num_gpus, that share the base's weights; an adapter is then "
        "computed beside them",
    )
    group_size: PositiveInt = Field(default=16, description="most samples rolled out together")
    mix_routes: bool = Field(
        default=False,
        description="whether samples of several routes are rolled out and learned together, where their images have one size "
        "and as many source images; fills batches that one route would leave nearly empty",
    )
    merge: bool | Literal["auto"] = Field(
        default="auto",
        description="whether an adapter is added to the weights, in model.dtype, or computed beside them; "
        "auto adds it unless a worker has ranks, or its GPU (`learner.gpu`) has no room for the copies that this takes",
    )
    num_cpus: Cpus = 1
    num_gpus: Gpus = 0
    node_labels: NodeLabels = Field(default={})

    @property
    def most_workers(self) -> int:
        """Workers that there may be."""
        return self.autoscaling.most if self.autoscaling else self.workers

    @property
    def merges(self) -> bool:
        """Whether an adapter is added to the weights; `auto`, where nothing has settled it, does so in one process."""
        return self.merge is not False and self.ranks == 1

    @model_validator(mode="after")
    def _most_is_no_less(self) -> "RolloutConfig":
        if self.most_workers < self.workers:
            raise ValueError(f"autoscaling.most: {self.most_workers} is less than workers, {self.workers}")
        return self

    @model_validator(mode="after")
    def _ranks_share_weights_that_stay(self) -> "RolloutConfig":
        check_ranks(self.ranks, self.num_gpus)
        if self.ranks > 1 and self.merge is True:
            raise ValueError(
                f"merge: true adds an adapter to weights of which each of {self.ranks} ranks has a part; allowed: false, auto"
            )
        return self

    def ode_solver(self) -> "Solver":
        """What solves the ODE of a rollout."""
        from fields.method.solver import Euler, Heun

        return Heun() if self.solver == "heun" else Euler()


class LearnerConfig(Section):
    """How the student is updated."""

    batch_size: PositiveInt = Field(default=32, description="samples of an optimizer step")
    learning_rate: Positive = Field(default=2e-4, description="of AdamW, without weight decay")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), description="of AdamW")
    warmup_steps: int = Field(default=0, ge=0, description="first steps, over which the rate rises linearly")
    decay: tuple[int, int] | None = Field(
        default=None, description="[first, last] steps over which the rate falls linearly to 0; none keeps it constant"
    )
    clip: PositiveFloat = Field(default=1.0, description="largest norm of the gradient")
    ema_decay: float = Field(default=0.99, ge=0, lt=1, description="of the average that is evaluated")
    lag: int = Field(
        default=1, ge=0, description="step s rolls out with the newest published version up to s - lag; 0 is strictly on-policy"
    )
    micro_batch: PositiveInt | Literal["auto"] = Field(
        default="auto", description="most samples of one forward and backward; auto is what `gpu` holds, or a whole batch"
    )
    recompute: Literal["auto", "always", "never"] = Field(
        default="auto", description="compute activations again in the backward, in the same bits; auto does so where it must"
    )
    gpu: Annotated[str, AfterValidator(known_gpu)] = Field(
        default="h100", description="what its GPU is, for auto: a name of pipelines.plan, or NAME=GB"
    )
    ranks: PositiveInt = Field(
        default=1,
        description="processes that update the student together, each with num_cpus and num_gpus; in the same bits, "
        "unless they share a full student",
    )
    num_cpus: Cpus = 1
    num_gpus: Gpus = 0
    node_labels: NodeLabels = Field(default={})
    shard: bool = Field(
        default=False,
        description="whether ranks share the network instead of holding it each, where no GPU does: a frozen base in the same "
        "bits, a full student with sums in the order of that many ranks",
    )

    @property
    def rank_actors(self) -> int:
        """Ranks that have a process of their own, beside the learner's."""
        return self.ranks if self.ranks > 1 else 0

    @model_validator(mode="after")
    def _several_ranks_share(self) -> "LearnerConfig":
        check_ranks(self.ranks, self.num_gpus)
        if self.shard and self.ranks == 1:
            raise ValueError("shard: true shares the network among ranks, and ranks is 1; allowed: false, or more ranks")
        return self

    @model_validator(mode="after")
    def _decay_ascends(self) -> "LearnerConfig":
        if self.decay is not None and not 0 <= self.decay[0] < self.decay[1]:
            raise ValueError(f"decay {list(self.decay)} must ascend from 0 or later")
        return self

    def optimization(self) -> "Optimization":
        """How an update is made."""
        from fields.method.optimization import Optimization

        return Optimization(
            learning_rate=self.learning_rate,
            betas=self.betas,
            warmup_steps=self.warmup_steps,
            decay=self.decay,
            clip=self.clip,
            ema_decay=self.ema_decay,
            micro_batch=None if self.micro_batch == "auto" else self.micro_batch,
            recompute=self.recompute == "always",
        )


class PublishConfig(Section):
    """When rollout workers get the student's weights."""

    every: PositiveInt = Field(
        default=1,
        description="optimizer steps from one published version to the next; rollouts are up to learner.lag + every - 1 behind",
    )


class CheckpointConfig(Section):
    """When the run can be continued from."""

    every: PositiveInt = Field(default=100, description="optimizer steps; the last step is always saved")
    keep: PositiveInt = Field(default=3, description="newest checkpoints kept")
    keep_every: PositiveInt | None = Field(
        default=None,
        description="optimizer steps, a multiple of checkpoint.every, whose checkpoints stay for good; none keeps none",
    )
    mirror: Uri | None = Field(
        default=None,
        description="s3://, gs://, abfs:// or path of a folder to which checkpoints and the record are copied, and from which "
        "a run continues whose own folder has no newer one; none copies nothing",
    )

    @model_validator(mode="after")
    def _kept_ones_are_written(self) -> "CheckpointConfig":
        if self.keep_every is not None and self.keep_every % self.every:
            raise ValueError(
                f"keep_every: {self.keep_every} steps; allowed: a multiple of checkpoint.every, which is {self.every}"
            )
        return self
