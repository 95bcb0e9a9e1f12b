"""Model families: each turns one kind of model into the uniform velocity field. The registry is `FAMILIES`."""

from fields.families.base import Family
from fields.families.scene import SceneFamily

FAMILIES: dict[str, type[Family]] = {"scene": SceneFamily}
