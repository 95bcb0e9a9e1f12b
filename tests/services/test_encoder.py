"""The encoder's cache: what it saves, what it forgets, and that it never shows in the result."""

import asyncio
from dataclasses import replace

import numpy as np
import torch

from fields.dataset import encode_png
from fields.families import SceneFamily
from fields.plan import Stream, generator
from fields.scene.exam import task_row
from fields.scene.grammar import draw_task
from services.encoder import EncoderService


class CountingFamily(SceneFamily):
    def __init__(self):
        self.encoded: list[str] = []

    def encode(self, rows):
        self.encoded += [row.uid for row in rows]
        return super().encode(rows)


def rows(category: str, count: int):
    return [task_row(f"{category}-{n}", draw_task(category, generator(0, Stream.ROW, n))) for n in range(count)]


def test_rows_are_encoded_once_and_equal_the_family(cluster):
    family = CountingFamily()
    service = EncoderService(lambda: family, cache_rows=8, threads=1, run="test")
    wanted = rows("replace", 4)
    first = asyncio.run(service.encode(wanted))
    again = asyncio.run(service.encode(wanted[::-1]))
    assert family.encoded == [row.uid for row in wanted]
    expected = SceneFamily().encode(wanted)
    for name, tensor in expected.tensors.items():
        assert torch.equal(first.tensors[name], tensor)
        assert torch.equal(again.tensors[name], tensor.flip(0))


def test_the_least_recently_used_row_is_forgotten(cluster):
    family = CountingFamily()
    service = EncoderService(lambda: family, cache_rows=2, threads=1, run="test")
    a, b, c = rows("attribution", 3)
    for row in (a, b, a, c, a, b):
        asyncio.run(service.encode([row]))
    assert family.encoded == [a.uid, b.uid, c.uid, b.uid]


def test_the_source_image_is_part_of_the_key(cluster):
    family = CountingFamily()
    service = EncoderService(lambda: family, cache_rows=8, threads=1, run="test")
    a, b = rows("style", 2)
    b = type(b)(b.uid, b.task, a.prompt, b.source_image, b.target_image)
    conditions = [asyncio.run(service.encode([row])) for row in (a, b)]
    assert not torch.equal(conditions[0].tensors["source"], conditions[1].tensors["source"])


def test_the_negative_prompt_is_part_of_the_key(cluster):
    service = EncoderService(CountingFamily, cache_rows=8, threads=1, run="test")
    (row,) = rows("attribution", 1)
    first, second = (
        asyncio.run(service.encode([replace(row, negative_prompt=f"a {colour} circle on white")])) for colour in ("red", "blue")
    )
    assert not torch.equal(first.negative["words"], second.negative["words"])
    assert torch.equal(first.tensors["words"], second.tensors["words"])


def test_target_images_come_when_they_are_asked_for_and_are_not_cached(cluster):
    family = CountingFamily()
    service = EncoderService(lambda: family, cache_rows=8, threads=1, run="test")
    wanted = [
        replace(row, target_image=encode_png(np.full((3, 24, 24), n / 4, np.float32))) for n, row in enumerate(rows("style", 2))
    ]
    assert asyncio.run(service.encode(wanted)).clean is None
    assert torch.equal(asyncio.run(service.encode(wanted, True)).clean, SceneFamily().clean(wanted))
    assert family.encoded == [row.uid for row in wanted], "the conditions themselves were there already"
