"""Where the parts of a `diffusers` pipeline come from: each is loaded alone, and when it is first needed."""

import importlib
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch import nn

from fields.families.base import Family
from fields.families.folder import INDEX, check_class, check_components, check_weights, fetch, read_json
from fields.families.latents import LatentSpace
from fields.families.quantization import Quantization
from fields.families.quantized import is_kept, loading_options, quantize

_TRANSFORMER, _VAE, _SCHEDULER = "transformer", "vae", "scheduler"
_EULER = "FlowMatchEulerDiscreteScheduler"
_LATENT_SETTINGS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "batch_norm_eps")


class PipelineParts(Family):
    """The transformer, which is all that students and experts load; text encoders and VAE, for `encode` and `decode`.

    Attributes:
        pipelines: classes of pipelines that the family takes, as model_index.json names them.
        encoder_class: the pipeline class that encodes; None is the folder's own.
        transformer_class: class of the network.
        vae_class: class of the VAE.
    """

    pipelines: ClassVar[tuple[str, ...]]
    encoder_class: ClassVar[str | None] = None
    transformer_class: ClassVar[str]
    vae_class: ClassVar[str] = "AutoencoderKL"

    def load_encoders(self) -> None:
        _ = self.encoders, self.vae

    def load_transformer(self, path: Path, quantization: Quantization = "none") -> nn.Module:
        self.skeleton(path)
        options = self._options | loading_options(quantization, self.dtype)
        network = _class(self.transformer_class).from_pretrained(self._transformer_folder(path), **options)
        return network.eval().requires_grad_(False)

    def skeleton(self, path: Path) -> nn.Module:
        """The network without its values, compared with the headers of the files; a local pipeline must be complete."""
        folder = self._transformer_folder(path)
        if path.is_dir() and (path / INDEX).is_file():
            check_components(path, read_json(path / INDEX))
        network = self._without_values(folder)
        check_weights(folder, network, _class(self.transformer_class)._keys_to_ignore_on_load_unexpected or ())
        return network.eval().requires_grad_(False)

    def blueprint(self, path: Path, quantization: Quantization = "none") -> nn.Module:
        network = self._without_values(self._transformer_folder(path, "*.json")).to(torch.device("meta"))
        nn.Module.to(network, self.dtype)  # the network's own `to` warns of its types
        for parameter in (one for name, one in network.named_parameters() if is_kept(network, name)):
            parameter.data = parameter.data.float()
        quantize(network, quantization)
        return network.eval().requires_grad_(False)

    def untrained(self, path: Path) -> nn.Module:
        return self._constructed(self._transformer_folder(path, "*.json"))

    def _without_values(self, folder: Path) -> nn.Module:
        from accelerate import init_empty_weights

        with init_empty_weights():
            return self._constructed(folder)

    def _constructed(self, folder: Path) -> nn.Module:
        config = read_json(folder / "config.json")
        check_class(folder, config, self.name, (self.transformer_class,))
        return _class(self.transformer_class).from_config(config)

    def encoder_bytes(self) -> int:
        return sum(
            parameter.numel() * self.dtype.itemsize
            for part in self.encoder_blueprints.values()
            for parameter in part.parameters()
        )

    @cached_property
    def encoder_blueprints(self) -> dict[str, nn.Module]:
        """Component of the pipeline -> its network without values, on the meta device; the transformer is not among them.

        Raises:
            ValueError: if the base has no configuration of one.
        """
        index = read_json(fetch(self._base, ()) / INDEX)
        classes = {name: kind for name, kind in index.items() if isinstance(kind, list) and None not in kind}
        folder = fetch(self._base, list(classes), "*.json")
        return {
            name: _network_without_values(library, class_name, folder / name, self.dtype)
            for name, (library, class_name) in classes.items()
            if name != _TRANSFORMER and (folder / name / "config.json").is_file()  # tokenizers and schedulers have no weights
        }

    def _transformer_folder(self, path: Path, files: str = "*") -> Path:
        """Of a pipeline's folder, or of a transformer's own, as an expert's checkpoint may be."""
        folder = fetch(path, (_TRANSFORMER,), files)
        if not (folder / INDEX).is_file() and (folder / "config.json").is_file():
            return folder
        check_class(folder, read_json(folder / INDEX), self.name, self.pipelines)
        return folder / _TRANSFORMER

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of one part of the base; raises ValueError for a key that it doesn't have."""
        name = "scheduler_config.json" if part == _SCHEDULER else "config.json"
        path = fetch(self._base, (part,), "*.json") / part / name
        return _Told(path, read_json(path))

    @property
    def _base(self) -> Path:
        if self.path is None:
            raise ValueError(f"family {self.name} needs the path of its base")
        return self.path

    @property
    def _options(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "use_safetensors": True, "local_files_only": True}

    @cached_property
    def network_config(self) -> dict[str, Any]:
        return self.config(_TRANSFORMER)

    @cached_property
    def vae_config(self) -> dict[str, Any]:
        return self.config(_VAE)

    @property
    def latent_space(self) -> LatentSpace:
        told = {name: self.vae_config[name] for name in _LATENT_SETTINGS if self.vae_config.get(name) is not None}
        channels, *_, height, _ = self.latent_shape()
        folder = fetch(self._base, (_VAE,)) / _VAE
        own = {"channels": channels, "pixels per cell": self.default_size.height / height}
        return LatentSpace(settings={**told, **own}, vae=folder)

    @cached_property
    def vae(self) -> Any:
        folder = fetch(self._base, (_VAE,)) / _VAE
        return _load(_class(self.vae_class), folder, self._options).to(self.device)

    @cached_property
    def encoders(self) -> Any:
        """The model's own pipeline without its transformer."""
        folder = fetch(self._base, ())
        index = read_json(folder / INDEX)
        check_class(folder, index, self.name, self.pipelines)
        folder = fetch(self._base, [name for name, kind in index.items() if isinstance(kind, list) and name != _TRANSFORMER])
        kind = _class(self.encoder_class or index["_class_name"])
        return _load(kind, folder, self._options | self.given_parts(folder)).to(self.device)

    def encoding_pipeline(self, vae: nn.Module) -> Any:
        """The model's own pipeline with its VAE alone."""
        kind = _class(self.encoder_class or read_json(fetch(self._base, ()) / INDEX)["_class_name"])
        components = [name for name, value in signature(kind.__init__).parameters.items() if value.default is value.empty]
        return kind(**dict.fromkeys(components[1:]) | {"vae": vae})

    def given_parts(self, folder: Path) -> dict[str, Any]:
        """Components of the encoding pipeline that are not loaded from the folder as its index says."""
        return {_TRANSFORMER: None, _VAE: self.vae}

    @cached_property
    def scheduler(self) -> Any:
        folder = fetch(self._base, (_SCHEDULER,)) / _SCHEDULER
        check_class(folder, read_json(folder / "scheduler_config.json"), self.name, (_EULER,))
        return _class(_EULER).from_pretrained(folder)


class _Told(dict[str, Any]):
    """What a file says."""

    def __init__(self, path: Path, content: dict[str, Any]):
        super().__init__(content)
        self._path = path

    def __missing__(self, key: str) -> NoReturn:
        raise ValueError(f"{self._path} doesn't say {key}")


def _class(name: str) -> Any:
    """A class of diffusers, which is imported when it is first needed: that takes seconds."""
    return getattr(importlib.import_module("diffusers"), name)


def _network_without_values(library: str, class_name: str, folder: Path, dtype: torch.dtype) -> nn.Module:
    import transformers
    from accelerate import init_empty_weights

    with init_empty_weights():
        if library == "transformers":
            kind = getattr(transformers, class_name)
            network = kind(kind.config_class.from_pretrained(folder))
        else:
            network = _class(class_name).from_config(read_json(folder / "config.json"))
    return nn.Module.to(network.to(torch.device("meta")), dtype).eval().requires_grad_(False)


def _load(kind: Any, folder: Path, options: dict[str, Any]) -> Any:
    try:
        return kind.from_pretrained(folder, **options)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{folder} doesn't load as a {kind.__name__}: {' '.join(str(error).split())}") from error
