"""What `ray job submit --working-dir .` uploads, by Ray's own packaging."""

import shutil
import zipfile
from pathlib import Path

from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

NEVER = (
    "data/prompts.parquet", "data/scene/local_edit.parquet", "runs/sd35/checkpoints/step-000100/adapter.safetensors",
    "adapters/local_edit/adapter_model.safetensors", "models/sd35/transformer/model.safetensors", "tests/test_a.py",
)  # fmt: skip
ALWAYS = (
    "pipelines/distill.py",
    "pipelines/data/writer.py",
    "pipelines/configs/sd35.yaml",
    "fields/scene/weights/base/x.safetensors",
)


def _uploaded(folder: Path, archive: Path) -> zipfile.ZipFile:
    create_package(str(folder), archive, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    return zipfile.ZipFile(archive)


def test_data_adapters_models_and_runs_are_never_uploaded(tmp_path):
    checkout = tmp_path / "checkout"
    for name in (*NEVER, *ALWAYS):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"1")
    for ignored in (".rayignore", ".gitignore"):
        shutil.copy(ignored, checkout)
    names = {name for name in _uploaded(checkout, tmp_path / "a.zip").namelist() if not name.endswith("/")}
    assert names - {".rayignore", ".gitignore"} == set(ALWAYS)


def test_the_upload_of_this_checkout_is_small(tmp_path):
    archive = _uploaded(Path.cwd(), tmp_path / "checkout.zip")
    assert sum(file.file_size for file in archive.infolist()) < 20e6
    assert {name.partition("/")[0] for name in archive.namelist()} >= {"fields", "services", "actors", "pipelines"}
