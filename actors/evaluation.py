"""The exam of a model that is reached through the cluster."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
from torch import Tensor

from fields.carriers import Condition
from fields.families.base import Family
from fields.scene.exam import Exam, Sheet
from services.client import ServiceClient

Generate = Callable[[Tensor, Tensor, Condition], Awaitable[Tensor]]


async def answers(exam: Exam, family: Family, grid: Tensor, encoder: ServiceClient, generate: Generate) -> list[np.ndarray]:
    """Images of every sheet, float32 (n, 3, H, W), all sheets in flight together.

    Args:
        exam: the questions.
        family: decodes clean states.
        grid: the rollout's times.
        encoder: client of the condition encoder.
        generate: clean states from (noise, grid, condition).
    """

    async def answer(sheet: Sheet) -> np.ndarray:
        condition = await encoder.call("encode", sheet.rows)
        return family.decode(await generate(sheet.noise, grid, condition))

    return await asyncio.gather(*(answer(sheet) for sheet in exam.sheets))
