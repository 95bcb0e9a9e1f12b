"""The Fréchet distance of features, FID: how far a route's images are from real ones."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fields.data.images import decode_image, image_files, image_size, to_bytes
from fields.data.rows import Row, target_of
from fields.evaluation.metrics import Metric

_TRIALS = ((299, 299), (64, 96))  # sizes that an extractor must take
_LEAST = 2  # images that have a covariance


class Fid(Metric):
    """|m - m_r|^2 + tr(S + S_r - 2 (S S_r)^1/2) of the features' means and covariances (Heusel et al., arXiv 1706.08500).

    torchmetrics computes it. Few images give a large value whatever they show: compare equal numbers, of hundreds or more.

    Args:
        weights: a TorchScript file of the feature extractor: uint8 (1, 3, H, W) of any size -> (1, d). One with an argument
            `return_features`, as the usual Inception has it, is asked for them.
        real: a folder of real images, read once; None takes the rows' target images.

    Raises:
        ValueError: if torchmetrics is not installed, the file is no such extractor, or the folder has too few images.
    """

    def __init__(self, weights: Path, real: Path | None = None):
        if find_spec("torchmetrics") is None:
            raise ValueError("fid needs the package torchmetrics, which is not installed: pip install torchmetrics")
        self._extractor = _Extractor(weights)
        self._real = None if real is None else image_files(real)
        if self._real is not None:
            if len(self._real) < _LEAST:
                raise ValueError(f"{real} has one image; fid needs at least {_LEAST}")
            for path in self._real:
                image_size(path.read_bytes(), str(path))
        self._distance: Any = None  # torchmetrics' own, once there is something to compare

    def check(self, rows: Sequence[Row]) -> None:
        if len(rows) < _LEAST:
            raise ValueError(f"fid needs at least {_LEAST} images; samples and data give {len(rows)}")
        if self._real is None:
            try:
                for row in rows:
                    target_of(row, 1)
            except ValueError as error:
                raise ValueError(f"{error}; fid compares with them unless `real` names a folder") from error

    @torch.no_grad()
    def __call__(self, rows: Sequence[Row], images: Sequence[np.ndarray]) -> float:
        if self._distance is None:
            from torchmetrics.image.fid import FrechetInceptionDistance

            self._distance = FrechetInceptionDistance(feature=self._extractor, reset_real_features=self._real is None)
            self._see((path.read_bytes(), str(path)) for path in self._real or ())
        if self._real is None:
            self._see((target, row.uid) for row in rows for target in target_of(row, 1))
        for image in images:
            self._distance.update(_pixels(image), real=False)
        distance = float(self._distance.compute())
        self._distance.reset()
        return distance

    def _see(self, real: Iterable[tuple[bytes, str]]) -> None:
        for data, name in real:
            self._distance.update(_pixels(to_bytes(decode_image(data, name))), real=True)


class _Extractor(nn.Module):
    """A TorchScript file as torchmetrics asks it."""

    def __init__(self, path: Path):
        super().__init__()
        if not path.is_file():
            raise ValueError(f"no such file: {path}")
        try:
            script = torch.jit.load(path, map_location="cpu").eval()
        except RuntimeError as error:
            raise ValueError(f"{path} is no TorchScript file: {str(error).splitlines()[0]}") from error
        named = any(argument.name == "return_features" for argument in script.forward.schema.arguments)
        self._script, self._options = script, {"return_features": True} if named else {}
        for width, height in _TRIALS:
            self.num_features = self._width(path, torch.zeros(1, 3, height, width, dtype=torch.uint8))

    @torch.no_grad()
    def _width(self, path: Path, pixels: Tensor) -> int:
        """d, from a trial."""
        wanted = f"{path} must make features (1, d) of an image, uint8 {tuple(pixels.shape)}"
        try:
            features = self._script(pixels, **self._options)
        except RuntimeError as error:
            raise ValueError(f"{wanted}; it says: {str(error).strip().splitlines()[-1]}") from error
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 1:
            raise ValueError(f"{wanted}; it makes {tuple(features.shape) if isinstance(features, Tensor) else type(features)}")
        return features.shape[1]

    def forward(self, pixels: Tensor) -> Tensor:
        return self._script(pixels, **self._options).double()


def _pixels(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None]
