"""FID against its closed form: flat images whose mean colours are Gaussian, and the same shrunk and moved."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fields.data.images import encode_png, to_bytes
from fields.data.rows import Row
from fields.evaluation import fid
from fields.evaluation.fid import Fid
from fields.evaluation.metrics import Metric

COUNT = 40


class MeanColour(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.double().mean(dim=(2, 3))


class Inception(nn.Module):
    """The arguments of the usual file."""

    def forward(self, pixels: Tensor, use_fp16: bool = False, return_features: bool = False) -> Tensor:
        colour = pixels.double().mean(dim=(2, 3))
        return colour if return_features else torch.softmax(colour, dim=1)


class Square(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.double().reshape(1, 3, 299 * 299).mean(dim=2)


class Picture(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels


def saved(module: nn.Module, folder: Path) -> Path:
    torch.jit.script(module).save(folder / "extractor.pt")
    return folder / "extractor.pt"


@pytest.fixture
def colours() -> np.ndarray:
    """Even numbers, 0 to 255: their halves are whole, so that no image is rounded."""
    drawn = np.random.default_rng(0).multivariate_normal([120, 100, 140], [[400, 150, 0], [150, 300, 90], [0, 90, 200]], COUNT)
    return 2 * np.rint(drawn / 2).clip(0, 127)


def flat(colour: np.ndarray, size: int) -> np.ndarray:
    return np.broadcast_to((colour / 255).astype(np.float32)[:, None, None], (3, size, size + 2))


def rows(colours: np.ndarray) -> list[Row]:
    return [Row(f"u{n}", "t", "p", target_image=encode_png(flat(colour, 8))) for n, colour in enumerate(colours)]


def moved(colours: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Images of half the colours and 30 more, of other sizes; and their distance.

    With x' = x / 2 + 30 the covariance is S / 4, which commutes with S: |m - m'|^2 + (1 - 1/2)^2 tr S.
    """
    images = [to_bytes(flat(colour / 2 + 30, 4 + n % 3)) for n, colour in enumerate(colours)]
    difference = colours.mean(axis=0) / 2 - 30
    return images, float(difference @ difference + np.cov(colours.T).trace() / 4)


@pytest.mark.parametrize("extractor", [MeanColour, Inception])
def test_the_distance_is_the_closed_form_s(colours, extractor, tmp_path):
    metric = Fid(saved(extractor(), tmp_path))
    assert isinstance(metric, Metric)
    questions, (images, expected) = rows(colours), moved(colours)
    metric.check(questions)
    assert expected > 100
    assert metric(questions, images) == pytest.approx(expected, rel=1e-6)
    same = [to_bytes(flat(colour, 4)) for colour in colours]
    assert metric(questions, same) == pytest.approx(0, abs=1e-4), "nothing is left of the call before"


def test_a_folder_of_real_images_is_what_all_routes_are_compared_with(colours, tmp_path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    for n, colour in enumerate(colours):
        (tmp_path / "real" / ("deep" if n % 2 else ".") / f"{n}.png").write_bytes(encode_png(flat(colour, 8)))
    metric = Fid(saved(MeanColour(), tmp_path), tmp_path / "real")
    questions, (images, expected) = [Row(f"u{n}", "t", "p") for n in range(COUNT)], moved(colours)
    metric.check(questions)
    for _ in range(2):
        assert metric(questions, images) == pytest.approx(expected, rel=1e-6)


def test_rows_that_cannot_be_compared_are_refused(colours, tmp_path):
    metric = Fid(saved(MeanColour(), tmp_path))
    with pytest.raises(ValueError, match=r"row 'x' has no target_image; fid compares with them unless `real` names a folder"):
        metric.check([*rows(colours[:2]), Row("x", "t", "p")])
    with pytest.raises(ValueError, match=r"fid needs at least 2 images; samples and data give 1"):
        metric.check(rows(colours[:1]))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Picture(), r"must make features \(1, d\) of an image, uint8 \(1, 3, 299, 299\); it makes \(1, 3, 299, 299\)"),
        (Square(), r"must make features \(1, d\) of an image, uint8 \(1, 3, 96, 64\); it says: .*shape"),
    ],
)
def test_a_file_that_makes_no_features_is_refused(module, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Fid(saved(module, tmp_path))


def test_missing_and_damaged_files_are_named(colours, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no such file: .*none\.pt"):
        Fid(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(ValueError, match=r"text\.pt is no TorchScript file: "):
        Fid(tmp_path / "text.pt")
    extractor = saved(MeanColour(), tmp_path)
    with pytest.raises(ValueError, match=r"no such folder: .*nowhere"):
        Fid(extractor, tmp_path / "nowhere")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(encode_png(flat(colours[0], 8)))
    with pytest.raises(ValueError, match="real has one image; fid needs at least 2"):
        Fid(extractor, tmp_path / "real")
    (tmp_path / "real" / "b.png").write_text("no image")
    with pytest.raises(ValueError, match=r"b\.png': the image of 8 bytes does not decode"):
        Fid(extractor, tmp_path / "real")
    monkeypatch.setattr(fid, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package torchmetrics, which is not installed"):
        Fid(extractor)
