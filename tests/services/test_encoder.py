"""The encoder: what its cache saves, what is encoded together, and that neither shows in the result."""

import asyncio
import shutil
from dataclasses import replace

import metrics_port
import numpy as np
import pytest
import tiny_pipelines
import torch
from waiting import wait_for

from fields.carriers import Variant
from fields.data.images import encode_png
from fields.data.rows import Row
from fields.data.size import Size
from fields.method.plan import Stream, generator
from fields.numerics import Numerics
from fields.registry import FAMILIES
from fields.scene.exam import task_row
from fields.scene.family import SceneFamily
from fields.scene.grammar import draw_task
from services.encoder import EncoderService
from services.encoders import Encoders

MEGABYTE = 2**20


class CountingFamily(SceneFamily):
    """Remembers what it encoded together."""

    def __init__(self, encodes_batches: bool = True):
        self.encodes_batches = encodes_batches
        self.calls: list[list[str]] = []

    def encode(self, rows):
        self.calls.append([row.uid for row in rows])
        return super().encode(rows)


class SeenTargets(SceneFamily):
    """Remembers how many targets came with each row that it encoded."""

    encodes_batches = True

    def __init__(self):
        self.targets: list[int] = []

    def encode(self, rows):
        self.targets += [len(row.targets) for row in rows]
        return super().encode(rows)


def rows(category: str, count: int):
    return [task_row(f"{category}-{n}", draw_task(category, generator(0, Stream.ROW, n))) for n in range(count)]


def test_targets_travel_only_where_they_are_encoded(cluster):
    """A service stands in for its own client, which has the same calls."""
    family = SeenTargets()
    encoders = Encoders({None: new_service(family)})  # type: ignore[dict-item]
    targets = [replace(row, target_image=row.source_image) for row in rows("replace", 2)]
    asyncio.run(encoders.encode(targets[:1]))
    asyncio.run(encoders.encoded(targets[1:], with_clean=True))
    assert family.targets == [0, 1]


def encode(service: EncoderService, *wanted):
    return asyncio.run(service.encode(list(wanted)))


def new_service(family, cache_bytes: int = MEGABYTE, run: str = "test") -> EncoderService:
    return EncoderService(lambda: family, cache_bytes=cache_bytes, numerics=Numerics(), run=run, identity={})


@pytest.mark.parametrize("encodes_batches", [True, False])
def test_rows_are_encoded_once_and_equal_the_family(cluster, encodes_batches):
    family = CountingFamily(encodes_batches)
    service = new_service(family)
    wanted = rows("replace", 4)
    first = encode(service, *wanted[:2])
    again = encode(service, *wanted[::-1], wanted[3])
    uids = [row.uid for row in wanted]
    assert family.calls == ([uids[:2], uids[:1:-1]] if encodes_batches else [[uids[n]] for n in (0, 1, 3, 2)])
    expected = SceneFamily().encode(wanted)
    for name, tensor in expected.tensors.items():
        assert torch.equal(first.tensors[name], tensor[:2])
        assert torch.equal(again.tensors[name], tensor[[3, 2, 1, 0, 3]])


def test_one_row_twice_in_a_call_is_encoded_once(cluster):
    family = CountingFamily()
    (row,) = rows("style", 1)
    condition = encode(new_service(family), row, row)
    assert family.calls == [[row.uid]]
    assert torch.equal(condition.tensors["source"][0], condition.tensors["source"][1])


def test_the_least_recently_used_row_is_forgotten(cluster):
    a, b, c = rows("attribution", 3)
    size = sum(2 * tensor.nbytes for tensor in SceneFamily().encode([a]).tensors.values())
    family = CountingFamily()
    service = new_service(family, cache_bytes=2 * size)
    for row in (a, b, a, c, a, b):
        encode(service, row)
    assert family.calls == [[a.uid], [b.uid], [c.uid], [b.uid]]


def test_what_is_kept_of_a_batch_does_not_keep_the_batch(cluster):
    """A slice holds its whole batch in memory, whatever its own size says."""
    service = new_service(CountingFamily())
    encode(service, *rows("replace", 8))
    for condition in service._cache.values():
        for tensor in (*condition.tensors.values(), *condition.unconditional.values()):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_the_source_image_is_part_of_the_key(cluster):
    a, b = rows("style", 2)
    b = type(b)(b.uid, b.task, a.prompt, b.source_image, b.target_image)
    service = new_service(CountingFamily())
    conditions = [encode(service, row) for row in (a, b)]
    assert not torch.equal(conditions[0].tensors["source"], conditions[1].tensors["source"])


def test_the_encoders_are_loaded_before_the_first_call(cluster, tmp_path):
    """A call has two minutes; a large encoder, or its download, takes longer."""
    tiny_pipelines.save(tiny_pipelines.sana(), tmp_path)
    service = new_service(FAMILIES["sana"](tmp_path, size=Size(64, 64)))
    for weights in tmp_path.rglob("*.safetensors"):
        weights.unlink()
    condition = encode(service, Row("u", "task", "a cat"))
    assert condition.tensors["text"].shape[0] == 1
    assert asyncio.run(service.decode(torch.zeros(1, *service._family.latent_shape()))).shape == (1, 3, 64, 64)


def test_a_base_without_its_encoders_is_refused_when_the_service_starts(cluster, tmp_path):
    tiny_pipelines.save(tiny_pipelines.sana(), tmp_path)
    shutil.rmtree(tmp_path / "text_encoder")
    with pytest.raises(ValueError, match="doesn't load as a SanaPipeline"):
        new_service(FAMILIES["sana"](tmp_path, size=Size(64, 64)))


def test_the_counters_are_on_the_metrics_port(cluster):
    service = EncoderService(CountingFamily, cache_bytes=1500, numerics=Numerics(), run="counted", identity={})
    for row in [*rows("two", 3), *rows("two", 3)[2:]]:
        encode(service, row)
    found = exported("counted", {"encoder_cache_hits_total": 1.0, "encoder_cache_misses_total": 3.0})
    assert 0 < found["encoder_cache_bytes"] <= 1500


def exported(run: str, wanted: dict[str, float]) -> dict[str, float]:
    """The run's metrics on the metrics port, without `ray_field_`, once they are as wanted."""
    found: dict[str, float] = {}

    def as_wanted() -> bool:
        lines = [line for line in metrics_port.shown().splitlines() if f'run="{run}"' in line]
        found.update({line.partition("{")[0].removeprefix("ray_field_"): float(line.rsplit(" ", 1)[1]) for line in lines})
        return wanted.items() <= found.items() and "encoder_cache_bytes" in found

    wait_for(as_wanted, lambda: f"{wanted} on the metrics port, which has {found}")
    return found


def test_prompts_that_are_too_long_are_counted_once_a_row(cluster, tmp_path):
    """A word is a token to the tiny Sana, whose encoder reads 299 with two marks; what is found encoded was counted before."""
    tiny_pipelines.save(tiny_pipelines.sana(), tmp_path)
    service = new_service(FAMILIES["sana"](tmp_path, size=Size(64, 64)), run="long")
    fits, long, longer = (Row(f"u{words}", "task", " ".join(["cat"] * words)) for words in (297, 298, 400))
    for row in (fits, long, long, longer):
        encode(service, row)
    exported("long", {"truncated_prompts_total": 2.0, "encoder_cache_hits_total": 1.0})


def test_the_negative_prompt_is_part_of_the_key(cluster):
    service = new_service(CountingFamily())
    (row,) = rows("attribution", 1)
    first, second = (
        asyncio.run(service.encode([replace(row, negative_prompt=f"a {colour} circle on white")])) for colour in ("red", "blue")
    )
    assert not torch.equal(first.negative["words"], second.negative["words"])
    assert torch.equal(first.tensors["words"], second.tensors["words"])


def test_the_empty_prompt_comes_where_it_is_read(cluster):
    """Half of a text's bytes; what was cached without it is encoded again for whoever wants it."""
    family = CountingFamily()
    service = new_service(family)
    (row,) = rows("two", 1)
    without, whole, again = (asyncio.run(service.encode([row], with_empty=wanted)) for wanted in (False, True, False))
    assert 2 * size_of(without) == size_of(whole)
    assert size_of(again) == size_of(without)
    assert torch.equal(without.tensors["words"], whole.tensors["words"])
    assert torch.equal(whole.unconditional["words"], SceneFamily().encode([row]).unconditional["words"])
    assert family.calls == [[row.uid]] * 2
    with pytest.raises(ValueError, match="without the empty prompt"):
        without.variant(Variant(prompt="empty"))


def size_of(condition) -> int:
    return sum(tensor.nbytes for tensor in (*condition.tensors.values(), *condition.unconditional.values()))


def test_target_images_come_when_they_are_asked_for_and_are_not_cached(cluster):
    family = CountingFamily()
    service = new_service(family)
    wanted = [
        replace(row, target_image=encode_png(np.full((3, 24, 24), n / 4, np.float32))) for n, row in enumerate(rows("style", 2))
    ]
    assert asyncio.run(service.encode(wanted)).clean is None
    assert torch.equal(asyncio.run(service.encode(wanted, True)).clean, SceneFamily().clean(wanted))
    assert family.calls == [[row.uid for row in wanted]], "the conditions themselves were there already"
