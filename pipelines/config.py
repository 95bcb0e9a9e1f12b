"""The run configuration: everything that a user edits, and every default."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from fields.families import FAMILIES

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Cpus = Annotated[float, Field(ge=0, description="CPUs of one process, in Ray's bookkeeping")]
Gpus = Annotated[float, Field(ge=0, description="GPUs of one process; a fraction shares one")]


BASE, BEFORE, AFTER = "base", "before", "after"  # who takes the exam beside the experts
RESERVED = (BASE, BEFORE, AFTER, "encoder")


class Section(BaseModel):
    """A part of the configuration: immutable, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(Section):
    """What is run, where it is written."""

    name: Name = "scene"
    dir: Path = Field(default=Path("runs"), description="parent of the run's folder; every node must see it")
    steps: PositiveInt = Field(default=600, description="optimizer steps")
    seed: int = Field(default=0, ge=0, lt=2**64, description="decides every random number of the run")
    threads: PositiveInt = Field(default=1, description="torch threads of every process; part of what makes runs equal")


class Model(Section):
    """The frozen base that student and experts share."""

    family: str = Field(default="scene", description="kind of model")
    path: Path = Field(default=Path("fields/scene/weights/base"), description="folder of the base, or its id on the model hub")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="in which networks compute")
    width: PositiveInt | None = Field(default=None, description="pixels, where a row doesn't say; none is the family's own")
    height: PositiveInt | None = Field(default=None, description="likewise")

    @model_validator(mode="after")
    def _known_family(self) -> "Model":
        if self.family not in FAMILIES:
            raise ValueError(f"unknown family {self.family!r}; allowed: {', '.join(FAMILIES)}")
        return self

    @model_validator(mode="after")
    def _both_sides_or_none(self) -> "Model":
        if (self.width is None) != (self.height is None):
            raise ValueError(f"width {self.width} and height {self.height}: give both or none")
        return self


class IdentityOperator(Section):
    """The expert's network as it is."""

    type: Literal["identity"] = "identity"


class GuidanceOperator(Section):
    """Classifier-free guidance around the expert's network."""

    type: Literal["guidance"]
    scale: float = Field(gt=0, allow_inf_nan=False, description="1 is the conditional branch alone")


class Expert(Section):
    """One frozen field, and what its service gets of the cluster."""

    adapter: Path | None = Field(default=None, description="PEFT LoRA folder over the base; none is the base itself")
    operator: Annotated[IdentityOperator | GuidanceOperator, Field(discriminator="type")] = IdentityOperator()
    replicas: PositiveInt = 1
    num_cpus: Cpus = 1
    num_gpus: Gpus = 0


class Route(Section):
    """One kind of task: who answers it, and the rows it is trained on."""

    expert: str = Field(description="name of the expert that answers")
    data: Path = Field(description="Parquet file with the columns uid, task, prompt and, for edits, source_image")
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="how often the route is drawn")


class Encoder(Section):
    """The condition encoder's service."""

    replicas: PositiveInt = 1
    cache_rows: PositiveInt = Field(default=4096, description="encoded rows kept by a replica")
    num_cpus: Cpus = 1
    num_gpus: Gpus = 0


class StartAtBase(Section):
    """The student starts as the base."""

    type: Literal["base"] = "base"


class StartAtExpert(Section):
    """The student starts as one expert's adapter; ranks must agree."""

    type: Literal["expert"]
    expert: str


class StartAtMerge(Section):
    """The student starts at a weighted sum of experts' adapters, cut to its own rank."""

    type: Literal["merge"]
    experts: dict[str, float] = Field(min_length=1, description="expert -> weight")


class Student(Section):
    """The adapter that is trained."""

    rank: PositiveInt = 64
    alpha: PositiveFloat = 64.0
    targets: tuple[str, ...] | None = Field(default=None, description="names of linear modules; none is the family's default")
    start: Annotated[StartAtBase | StartAtExpert | StartAtMerge, Field(discriminator="type")] = StartAtBase()


class Routing(Section):
    """How a sample gets its expert."""

    type: Literal["hard"] = "hard"
    granularity: Literal["sample", "microbatch", "step"] = Field(default="sample", description="what shares one draw")


class BetaQuery(Section):
    """The query point is Beta(a, b) from noise (0) to clean (1)."""

    type: Literal["beta"] = "beta"
    a: PositiveFloat = 5.0
    b: PositiveFloat = 2.0
    coordinate: Literal["index", "sigma", "logsnr"] = "index"


class UniformQuery(Section):
    """The query point is uniform."""

    type: Literal["uniform"]
    coordinate: Literal["index", "sigma", "logsnr"] = "index"


class Rollout(Section):
    """The student's own ODE, and the workers that solve it."""

    steps: PositiveInt = Field(default=16, description="Euler steps from noise to clean")
    shift: PositiveFloat | None = Field(default=None, description="of the time grid; none is the model's own, 1 is uniform")
    workers: PositiveInt = 2
    group_size: PositiveInt = Field(default=16, description="most samples rolled out together; they share a route")
    num_cpus: Cpus = 1
    num_gpus: Gpus = 0


class Learner(Section):
    """How the student is updated."""

    batch_size: PositiveInt = Field(default=32, description="samples of an optimizer step")
    learning_rate: PositiveFloat = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = Field(default=0, ge=0)
    clip: PositiveFloat = Field(default=1.0, description="largest norm of the gradient")
    ema_decay: float = Field(default=0.99, ge=0, lt=1, description="of the average that is evaluated")
    lag: int = Field(default=1, ge=0, description="step s rolls out with version max(0, s - lag); 0 is strictly on-policy")
    num_cpus: Cpus = 1
    num_gpus: Gpus = 0


class Checkpoint(Section):
    """When the run can be continued from."""

    every: PositiveInt = Field(default=100, description="optimizer steps; the last step is always saved")
    keep: PositiveInt = Field(default=3, description="newest checkpoints kept")


class Evaluation(Section):
    """The exam that experts and student take."""

    every: int = Field(default=200, ge=0, description="optimizer steps; 0 is no evaluation, before and after included")
    samples: PositiveInt = Field(default=24, description="questions a category")
    seed: int = Field(default=1, ge=0, lt=2**64, description="of the questions and their noise")


class RunConfig(Section):
    """One distillation."""

    run: Run = Run()
    model: Model = Model()
    experts: dict[Name, Expert] = Field(min_length=1)
    routes: dict[Name, Route] = Field(min_length=1)
    encoder: Encoder = Encoder()
    student: Student = Student()
    routing: Routing = Routing()
    query: Annotated[BetaQuery | UniformQuery, Field(discriminator="type")] = BetaQuery()
    rollout: Rollout = Rollout()
    learner: Learner = Learner()
    checkpoint: Checkpoint = Checkpoint()
    eval: Evaluation = Evaluation()

    @model_validator(mode="before")
    @classmethod
    def _query_is_beta_by_default(cls, content: Any) -> Any:
        """So that `query.a=2` alone says what it means."""
        if isinstance(content, dict) and isinstance(content.get("query"), dict):
            return {**content, "query": {"type": "beta", **content["query"]}}
        return content

    @model_validator(mode="after")
    def _names_exist(self) -> "RunConfig":
        wanted = {f"routes.{name}.expert": route.expert for name, route in self.routes.items()}
        if isinstance(self.student.start, StartAtExpert):
            wanted["student.start.expert"] = self.student.start.expert
        if isinstance(self.student.start, StartAtMerge):
            wanted |= {f"student.start.experts.{name}": name for name in self.student.start.experts}
        for key, expert in wanted.items():
            if expert not in self.experts:
                raise ValueError(f"{key}: unknown expert {expert!r}; allowed: {', '.join(self.experts)}")
        return self

    @model_validator(mode="after")
    def _names_are_free(self) -> "RunConfig":
        for name in self.experts:
            if name in RESERVED:
                raise ValueError(f"experts.{name}: the results of a run use the names {', '.join(RESERVED)}; call it otherwise")
        return self

    @model_validator(mode="after")
    def _microbatches_fill_the_batch(self) -> "RunConfig":
        if self.routing.granularity == "microbatch" and self.learner.batch_size % self.rollout.group_size:
            raise ValueError(
                f"routing.granularity microbatch: learner.batch_size {self.learner.batch_size} "
                f"is no multiple of rollout.group_size {self.rollout.group_size}"
            )
        return self

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run.dir / self.run.name


def schema() -> str:
    """The JSON schema of a run's configuration, as docs/config.schema.json holds it."""
    return json.dumps(RunConfig.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(schema(), end="")
