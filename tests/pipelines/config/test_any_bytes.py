"""Whatever bytes a user's files hold: they are read, or refused by a `ValueError` or `ConfigError`, and end in no other way."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fields.data.bucket import Bucket
from fields.lora.formats import load_adapter
from fields.scene.family import SceneFamily
from pipelines.config.errors import ConfigError
from pipelines.config.load import load_config
from pipelines.data.prompts import read_prompts

# The same examples in every run: a test that fails now and then says nothing of the change that it fails at.
examples = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
places = st.floats(0, 1, exclude_max=True)
edits = st.lists(st.tuples(places, st.binary(max_size=8)), max_size=3)  # from so far on, these bytes instead
ends = st.one_of(st.just(1.0), places)  # how much is there
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def damaged(content: bytes, edits: list[tuple[float, bytes]], end: float) -> bytes:
    data = bytearray(content)
    for place, instead in edits:
        start = int(place * len(data))
        data[start : start + len(instead)] = instead
    return bytes(data[: int(end * len(data))])


def read_or_refused(read: Callable[[], object], refusal: type[Exception]) -> None:
    with suppress(refusal):
        read()


@pytest.fixture(scope="module")
def skeleton(tiny_models):
    return SceneFamily().skeleton(tiny_models.base)


@examples
@given(edits=edits, end=ends)
def test_an_adapter(tiny_models, skeleton, tmp_path: Path, edits, end: float):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((tiny_models.local_edit / name).read_bytes())
    (tmp_path / name).write_bytes(damaged((tiny_models.local_edit / name).read_bytes(), edits, end))
    read_or_refused(lambda: load_adapter(tmp_path, skeleton), ValueError)


@pytest.fixture(scope="module")
def several_sources(scene_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of two source images each."""
    table = pq.read_table(scene_data / "local_edit.parquet").slice(0, 8)
    sources = [[image, image] for image in table["source_image"].to_pylist()]
    path = tmp_path_factory.mktemp("several") / "several.parquet"
    column = pa.array(sources, pa.list_(pa.binary()))
    pq.write_table(table.drop(["source_image"]).append_column("source_images", column), path)
    return path


@examples
@given(edits=edits, end=ends)
def test_rows(scene_data: Path, several_sources: Path, tmp_path: Path, edits, end: float):
    """With a source image, with scores, with several source images."""
    for file in (scene_data / "local_edit.parquet", scene_data / "two_skills.parquet", several_sources):
        path = tmp_path / "rows.parquet"
        path.write_bytes(damaged(file.read_bytes(), edits, end))

        def read(path: Path = path) -> None:
            bucket = Bucket(path)
            if bucket.scored:
                assert sum(1 for _ in bucket.every_rows_scores()) == len(bucket)
            for number in range(min(len(bucket), 4)):
                SceneFamily().check_row(bucket[number])

        read_or_refused(read, ValueError)


@examples
@given(scores=plain, sources=plain)
def test_an_entry_of_other_scores_and_source_images(tmp_path: Path, scores: object, sources: object):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"uid": "u", "task": "edit", "prompt": "p", "scores": scores, "source_images": sources}]))
    read_or_refused(lambda: list(read_prompts(path)), ValueError)


@examples
@given(edits=edits, end=ends)
def test_a_configuration_of_other_bytes(config_file: Path, tmp_path: Path, edits, end: float):
    path = tmp_path / "other.yaml"
    path.write_bytes(damaged(config_file.read_bytes(), edits, end))
    read_or_refused(lambda: load_config(path, []), ConfigError)


@examples
@given(
    key=st.sampled_from(["run", "experts", "routes.x", "student", "learner.batch_size", "query", "experts.x.model"]),
    value=plain,
)
def test_a_configuration_of_other_values(config_file: Path, key: str, value: object):
    written = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    read_or_refused(lambda: load_config(config_file, [f"{key}={written}"]), ConfigError)
