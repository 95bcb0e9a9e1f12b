"""Tiny pipelines in memory and on disk, each built once."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import tiny_pipelines


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tiny_pipelines.Tiny]:
    folder = tmp_path_factory.mktemp("pipelines")
    return cache(lambda name: tiny_pipelines.build(name, tiny_pipelines.PIPELINES[name](), folder / name))


@pytest.fixture
def copy(tiny, tmp_path):
    def copied(name: str) -> Path:
        return Path(shutil.copytree(tiny(name).folder, tmp_path / name))

    return copied
