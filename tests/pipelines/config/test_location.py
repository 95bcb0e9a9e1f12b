"""Base, adapters and data that lie in object storage are read as those of this machine are."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.config.load import load_config
from pipelines.config.location import fetched, uri_of
from pipelines.config.recipe import recipe
from pipelines.config.run import RunConfig
from pipelines.distill import main
from pipelines.parts.check_files import checked_parts
from pipelines.parts.run_parts import RunParts
from runs import reference


@pytest.fixture
def uri(s3, s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The URI of a name in the bucket; copies of this machine stand in the test's folder."""
    monkeypatch.setenv("FIELDWEAVE_CACHE", str(tmp_path / "cache"))
    return lambda name: f"s3://runs/{name}?endpoint_override={s3_server}&scheme=http"


def put(s3: Any, path: Path, name: str) -> None:
    for file in [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]:
        s3.upload_file(str(file), "runs", name if file == path else f"{name}/{file.relative_to(path)}")


@pytest.fixture
def stored(s3, uri, tiny_models, scene_data: Path) -> list[str]:
    """Overrides with everything that a run reads in the storage."""
    put(s3, tiny_models.base, "base")
    put(s3, tiny_models.local_edit, "adapters/local")
    put(s3, scene_data / "global_edit.parquet", "data/global.parquet")
    return [
        f"model.path={uri('base')}",
        f"experts.local_edit.adapter={uri('adapters/local')}",
        f"routes.global_edit.data={uri('data/global.parquet')}",
    ]


def test_the_student_is_the_same_and_the_record_names_the_uris(make_config, stored, uri, tmp_path):
    config = make_config("run.name=stored", *stored)
    assert reference(config).weights.checksum == reference(make_config("run.name=here")).weights.checksum
    assert config.model_dump(mode="json")["model"]["path"] == uri("base")
    assert recipe(config)["experts"]["local_edit"]["adapter"] == uri("adapters/local")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(tmp_path / "again.yaml", []) == config


def test_a_uri_comes_back_as_it_was_written(make_config):
    uri = "s3://bucket/a/b?endpoint_override=http://localhost:9000/x&scheme=http"
    config = make_config(f"experts.local_edit.adapter={uri}")
    assert config.model_dump(mode="json")["experts"]["local_edit"]["adapter"] == uri


@pytest.mark.parametrize("name", ["b", "b/x", "b/x/y", "b/x+/y", "b/x%2B/y", "b/50% more+", "b/a b"])
def test_every_uri_has_a_place_of_its_own(make_config, name):
    """Also what lies below another: its copy would be replaced with that of the other, while a run may read it."""
    adapters = {uri: place(make_config, uri) for uri in (f"s3://{name}", f"s3://{name}/more", f"s3://{name}?scheme=http")}
    for uri, path in adapters.items():
        assert uri_of(path) == uri
        assert not any(path.is_relative_to(other) for other in adapters.values() if other != path)
    assert uri_of(adapters[f"s3://{name}"] / "in+side" / "50%25") == f"s3://{name}/in+side/50%25"


def place(make_config, uri: str) -> Path:
    path = make_config(f"experts.local_edit.adapter={json.dumps(uri)}").experts["local_edit"].adapter
    assert path is not None
    return path


def test_another_machine_fetches_for_itself(make_config, stored, tmp_path, monkeypatch):
    parts = checked_parts(make_config(*stored))
    sent = pickle.dumps(parts)
    monkeypatch.setenv("FIELDWEAVE_CACHE", str(tmp_path / "of another machine"))
    there: RunParts = pickle.loads(sent)
    assert there.config.model.path.is_relative_to(tmp_path / "of another machine")
    assert not there.config.model.path.exists()
    assert there.plan.groups(0) == parts.plan.groups(0)
    there.field("local_edit")
    assert there.config.model.path.is_dir()


def test_a_copy_is_not_replaced_while_runs_may_read_it(make_config, stored, s3):
    path = make_config(*stored).experts["local_edit"].adapter
    assert path is not None
    assert fetched(path) == path
    before = (path / "adapter_model.safetensors").stat().st_ino
    fetched(path)
    assert (path / "adapter_model.safetensors").stat().st_ino == before
    s3.put_object(Bucket="runs", Key="adapters/local/README.md", Body=b"trained further")
    with pytest.raises(
        ValueError, match=r"it has changed since it was copied to .*; delete .*local\.json to have it copied anew"
    ):
        fetched(path)
    assert not (path / "README.md").exists()
    path.with_name(f".{path.name}.json").unlink()
    assert (fetched(path) / "README.md").read_bytes() == b"trained further"


def test_a_copy_is_good_enough_while_the_storage_is_away(make_config, stored, monkeypatch):
    path = fetched(make_config(*stored).model.path)
    uri = uri_of(path)
    assert uri is not None
    monkeypatch.setattr("pipelines.config.location.FileSystem", _Away)
    assert fetched(path) == path
    (path.with_name("other")).mkdir()
    with pytest.raises(ValueError, match="connection refused"):
        fetched(path.with_name("unknown"))


class _Away:
    @staticmethod
    def from_uri(uri: str):
        raise OSError("connection refused")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("experts.local_edit.adapter={}", "experts.local_edit.adapter: {}: no such file or folder"),
        ("routes.local_edit.data={}", "routes.local_edit.data: {}: no such file or folder"),
        ("model.path={}", "model: {}: no such file or folder"),
    ],
)
def test_what_is_not_there(refuse, uri, override, expected):
    assert expected.format(uri("nothing")) in refuse(override.format(uri("nothing")))


def test_a_bucket_that_is_not_there_and_a_path_that_leaves_its_folder(refuse, s3_server, monkeypatch, tmp_path, s3):
    monkeypatch.setenv("FIELDWEAVE_CACHE", str(tmp_path / "cache"))
    assert "s3://missing/adapter" in refuse(
        f"experts.local_edit.adapter=s3://missing/adapter?endpoint_override={s3_server}&scheme=http"
    )
    assert "a URI has no '..'" in refuse("experts.local_edit.adapter=s3://runs/../../etc/passwd")


@pytest.mark.parametrize("key", ["checkpoint.mirror", "run.dir", "experts.local_edit.adapter", "routes.local_edit.data"])
@pytest.mark.parametrize("uri", ["s3://AKIA:hidden@runs/x", "s3://runs/x?secret_key=hidden&scheme=http"])
def test_credentials_are_refused_and_not_repeated(refuse, key, uri):
    said = refuse(f"{key}={uri}")
    assert "s3://...: it holds credentials" in said
    assert "hidden" not in said


def test_a_folder_of_runs_in_the_storage_is_a_mirror(make_config, uri, s3, config_file, capsys):
    config: RunConfig = make_config(f"run.dir={uri('mine')}")
    assert (config.run.dir, config.checkpoint.mirror) == (Path("runs"), uri("mine"))
    assert config.checkpoint.every == 4
    other = make_config(f"run.dir={uri('mine')}", f"checkpoint.mirror={uri('other')}")
    assert other.checkpoint.mirror == uri("other")
    assert main([str(config_file), "--reference", f"run.dir={uri('mine')}"]) == 2
    assert "checkpoint.mirror: s3://runs/mine" in capsys.readouterr().err


def test_a_copy_that_was_cut_is_made_again(make_config, stored):
    path = fetched(make_config(*stored).model.path)
    path.with_name(f".{path.name}.json").unlink()
    (path / "config.json").unlink()
    assert (fetched(path) / "config.json").is_file()
