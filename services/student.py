"""The trained student as a Serve application: one checkpoint over the base."""

from collections.abc import Callable

import torch
from ray import serve
from ray.serve import Application
from torch import Tensor

from fields.carriers import Condition
from fields.numerics import Numerics
from fields.policy import Policy
from services.replica import Replica
from services.resources import Resources


class StudentService(Replica):
    """Generates with one version of the student; calls are pure, async, and compute in a thread, one at a time.

    Args:
        build_student: loads the base, on this replica's device, with the version that is served.
        numerics: how it computes.
    """

    def __init__(self, build_student: Callable[[], Policy], numerics: Numerics):
        super().__init__(numerics, identity={})  # one run's own: nobody thinks of sharing it
        self._student = build_student()

    @property
    def device(self) -> torch.device:
        return self._student.device

    async def generate(self, noise: Tensor, grid: Tensor, condition: Condition) -> Tensor:
        """Clean states (batch, ...) by the student's own ODE from the given noise, on the CPU."""
        return await self._compute(self._student.generate, noise, grid, condition)


def student_application(build_student: Callable[[], Policy], numerics: Numerics, resources: Resources) -> Application:
    """The Serve application of the trained student."""
    deployment = serve.deployment(name="student", **resources.deployment_options())(StudentService)
    return deployment.bind(build_student, numerics)
