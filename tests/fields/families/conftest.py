"""Tiny pipelines in memory and on disk, each built once."""

from collections.abc import Callable
from functools import cache

import pytest
import tiny_pipelines


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tiny_pipelines.Tiny]:
    folder = tmp_path_factory.mktemp("pipelines")
    return cache(lambda name: tiny_pipelines.build(name, tiny_pipelines.PIPELINES[name](), folder / name))
