"""The model families by name. Knowing the names loads no model code: a family is imported when it is looked up."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fields.families.base import Family


class Families(Mapping[str, "type[Family]"]):
    """Name -> class of a model family.

    Args:
        places: name -> `module:class`.
    """

    def __init__(self, places: Mapping[str, str]):
        self._places = places

    def __getitem__(self, name: str) -> "type[Family]":
        module, _, class_name = self._places[name].partition(":")
        return getattr(import_module(module), class_name)

    def __contains__(self, name: object) -> bool:
        return name in self._places  # Mapping's own would import the family

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


FAMILIES = Families(
    {
        "scene": "fields.scene.family:SceneFamily",
        "sd3": "fields.families.sd3:SD3Family",
        "flux": "fields.families.flux:FluxFamily",
        "flux2": "fields.families.flux2:Flux2Family",
        "qwen_image": "fields.families.qwen_image:QwenImageFamily",
        "qwen_image_edit": "fields.families.qwen_image_edit:QwenImageEditFamily",
        "z_image": "fields.families.z_image:ZImageFamily",
        "z_image_omni": "fields.families.z_image_omni:ZImageOmniFamily",
        "lumina2": "fields.families.lumina2:Lumina2Family",
        "sana": "fields.families.sana:SanaFamily",
        "auraflow": "fields.families.auraflow:AuraFlowFamily",
        "wan": "fields.families.wan:WanFamily",
    }
)
