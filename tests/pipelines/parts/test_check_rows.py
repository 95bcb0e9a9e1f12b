"""How many of a file's rows are looked at."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_pipelines

from fields.data.images import encode_png
from pipelines.config.model import ModelConfig
from pipelines.parts import check_rows


@pytest.fixture
def clips(tmp_path: Path) -> ModelConfig:
    tiny_pipelines.save(tiny_pipelines.PIPELINES["wan"](), tmp_path / "model")
    return ModelConfig(family="wan", path=tmp_path / "model")


def test_of_clips_as_many_frames_are_decoded_as_of_images(clips: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check_rows, "_MOST_CHECKED", 40)
    frame = encode_png(np.zeros((3, 32, 32), np.float32))
    row = {"task": "t", "prompt": "p", "width": 32, "height": 32, "frames": 5}

    def checked(broken: int, **values: int) -> int:
        path = tmp_path / f"{broken}{values}.parquet"
        rows = [row | {"uid": str(n), "target_frames": [b"x" if n == broken else frame, *[frame] * 4]} for n in range(16)]
        rows[1] |= values
        pq.write_table(pa.Table.from_pylist(rows), path)
        return check_rows.checked_rows(path, clips, ())

    assert checked(broken=1) == 16, "every second row of 16 x 5 frames"
    with pytest.raises(ValueError, match="row 2: "):
        checked(broken=2)
    with pytest.raises(ValueError, match=r"row 1: .* its size is 33 x 32; sides are multiples of 16"):
        checked(broken=1, width=33)
