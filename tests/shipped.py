"""The shipped configurations of models that are downloaded, and what each is written for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Large:
    """A configuration of pipelines/configs.

    Attributes:
        model: that it downloads, by the name of tests/published.py.
        gpus: of 80 GB that it asks for.
        micro_batch: of the learner, as `auto` settles it.
        recompute: whether the learner computes activations again.
    """

    model: str
    gpus: int
    micro_batch: int
    recompute: bool


LARGE = {
    "sd35": Large("stable-diffusion-3.5-medium", 4, 8, False),
    "sd35_one_gpu": Large("stable-diffusion-3.5-medium", 1, 4, False),
    "sd35_eight_gpus": Large("stable-diffusion-3.5-medium", 8, 8, False),
    "flux_kontext": Large("FLUX.1-Kontext-dev", 8, 1, False),
    "qwen_image_edit": Large("Qwen-Image-Edit-2509", 8, 4, True),
}
