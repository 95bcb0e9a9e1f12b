"""A diffusers pipeline's folder: found here or fetched from the model hub, and looked through before anything is loaded."""

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from fields.tensors import check_shapes, shapes

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"

_OPTIONAL = ("image_encoder", "feature_extractor", "transformer_2")  # of image prompts, of Wan 2.2: no family uses them
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_OTHER_FORMATS = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5", "*.onnx*"]
_PAUSES_S = (2.0, 8.0, 30.0)  # before a hub that is busy or can't be reached is asked again
_TOO_MANY_REQUESTS, _SERVER_ERRORS = 429, 500

_log = logging.getLogger(__name__)


def fetch(path: Path, parts: Sequence[str], files: str = "*") -> Path:
    """The local folder of a pipeline; of a hub id, the named sub-folders are downloaded.

    A hub that is busy or can't be reached is asked again after 2, 8 and 30 s, and the log says so.

    Args:
        path: a folder or a hub id.
        parts: the sub-folders.
        files: shell pattern of the names in them that are wanted.

    Raises:
        ValueError: if there is no such folder and the hub doesn't give it; says what to do.
    """
    if path.is_dir():
        return path
    name = str(path)
    if not _HUB_ID.fullmatch(name):
        raise ValueError(f"{name}: no such folder; a path is a local folder or a hub id such as organisation/model")
    from httpx2 import HTTPError
    from huggingface_hub.errors import GatedRepoError

    try:
        return _download(name, [INDEX, *(f"{part}/{files}" for part in parts)])
    except GatedRepoError as error:
        raise ValueError(
            f"{name} is gated on the model hub: accept its licence on its page, then log in with `hf auth login`"
        ) from error
    except (HTTPError, OSError) as error:
        raise ValueError(
            f"{name} is no folder here, and the model hub doesn't give it ({type(error).__name__}): check the name and the "
            f"network, or run `hf download {name} --local-dir DIR` where there is one and give DIR"
        ) from error


def _download(name: str, patterns: list[str]) -> Path:
    from httpx2 import HTTPError
    from huggingface_hub import snapshot_download

    for pause in _PAUSES_S:
        try:
            return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=_OTHER_FORMATS))
        except (HTTPError, OSError) as error:
            if not _may_pass(error):
                raise
            _log.warning("the model hub doesn't give %s now; it is asked again in %g s: %s", name, pause, error)
        time.sleep(pause)
    return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=_OTHER_FORMATS))


def _may_pass(error: Exception) -> bool:
    """Whether the hub may give tomorrow what it doesn't give now: it is busy, or can't be reached."""
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    reason = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error  # raised where nothing is cached, either
    if isinstance(reason, HfHubHTTPError):
        return reason.response.status_code == _TOO_MANY_REQUESTS or reason.response.status_code >= _SERVER_ERRORS
    return isinstance(reason, TransportError)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ValueError: if the file is missing or holds something else.
    """
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no object")
    return content


def check_class(path: Path, content: Mapping[str, Any], family: str, allowed: Sequence[str]) -> None:
    """Raise ValueError unless a folder's `_class_name` is one that the family takes."""
    if (found := content.get("_class_name")) not in allowed:
        raise ValueError(f"{path} holds a {found}; family {family} takes {' or '.join(allowed)}")


def check_components(folder: Path, index: Mapping[str, Any]) -> None:
    """Raise ValueError unless every component that the index names is there, its weights readable."""
    for name, kind in index.items():
        if not isinstance(kind, list) or name in _OPTIONAL:
            continue
        if not (folder / name).is_dir():
            raise ValueError(f"{folder} lacks the component {name} ({kind[1] or 'left out'} in its {INDEX})")
        for file in sorted((folder / name).glob("*.safetensors")):
            shapes_of(file)


def check_weights(folder: Path, network: nn.Module, ignored: Sequence[str]) -> None:
    """Compare the names and shapes of a folder's tensors with a network's, from the files' headers alone.

    Args:
        folder: holds one safetensors file or an index of several.
        network: its values are not looked at.
        ignored: patterns of names that may be there though the network lacks them.

    Raises:
        ValueError: for a missing or damaged file, or a tensor that doesn't fit; says how many don't, and lists them.
    """
    found: dict[str, tuple[int, ...]] = {}
    for file in _weight_files(folder):
        found |= shapes_of(file)
    wanted = shapes(network.state_dict())
    seen = {name: shape for name, shape in found.items() if name in wanted or not any(re.search(p, name) for p in ignored)}
    check_shapes(seen, wanted, str(folder), "its config.json")


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a safetensors file.

    Raises:
        ValueError: if the file is damaged or cut short.
    """
    try:
        with safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def _weight_files(folder: Path) -> list[Path]:
    if (sharded := folder / f"{WEIGHTS}.index.json").is_file():
        names = sorted(set(read_json(sharded)["weight_map"].values()))
    else:
        names = [WEIGHTS]
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}; only safetensors are read")
    return [folder / name for name in names]
