"""Model families: each turns one kind of model into the uniform velocity field. The registry is `FAMILIES`."""

from fields.families.base import Family
from fields.families.flux import FluxFamily
from fields.families.flux2 import Flux2Family
from fields.families.lumina2 import Lumina2Family
from fields.families.qwen_image import QwenImageFamily
from fields.families.qwen_image_edit import QwenImageEditFamily
from fields.families.sana import SanaFamily
from fields.families.scene import SceneFamily
from fields.families.sd3 import SD3Family
from fields.families.z_image import ZImageFamily
from fields.families.z_image_omni import ZImageOmniFamily

FAMILIES: dict[str, type[Family]] = {
    "scene": SceneFamily,
    "sd3": SD3Family,
    "flux": FluxFamily,
    "flux2": Flux2Family,
    "qwen_image": QwenImageFamily,
    "qwen_image_edit": QwenImageEditFamily,
    "z_image": ZImageFamily,
    "z_image_omni": ZImageOmniFamily,
    "lumina2": Lumina2Family,
    "sana": SanaFamily,
}
