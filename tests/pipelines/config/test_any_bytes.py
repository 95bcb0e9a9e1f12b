"""Whatever bytes a user's files hold: they are read, or refused by a `ValueError` or `ConfigError`, and end in no other way."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fields.data.bucket import Bucket
from fields.lora.formats import load_adapter
from fields.scene.family import SceneFamily
from pipelines.config.errors import ConfigError
from pipelines.config.load import load_config

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


@examples
@given(edits=edits, end=ends)
def test_rows(scene_data: Path, tmp_path: Path, edits, end: float):
    path = tmp_path / "rows.parquet"
    path.write_bytes(damaged((scene_data / "local_edit.parquet").read_bytes(), edits, end))

    def read() -> None:
        bucket = Bucket(path)
        for number in range(min(len(bucket), 4)):
            SceneFamily().check_row(bucket[number])

    read_or_refused(read, ValueError)


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
