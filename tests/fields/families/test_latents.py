"""Which families' states are the same images: as the document says, and as the code tells."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
import tiny_pipelines

from fields.families.latents import LatentSpace, check_same_latents
from fields.registry import FAMILIES

DOCUMENT = Path("docs/experts.md")


def test_the_document_has_the_families_own_table():
    spaces = defaultdict(list)
    for name in FAMILIES:
        spaces[FAMILIES[name].published_latents].append(name)
    told = re.findall(r"^\| ([^|]+) \| ([a-z0-9_, ]+) \|$", DOCUMENT.read_text().split("| latent space | families |")[1], re.M)
    assert {space: sorted(families.split(", ")) for space, families in told} == {s: sorted(f) for s, f in spaces.items()}


@pytest.mark.parametrize("other", ["flux2", "qwen_image", "sana", "auraflow", "scene"])
def test_families_of_other_spaces_are_refused(tmp_path: Path, other: str):
    """Whatever their networks are: by what is told in numbers alone."""
    spaces = []
    for name in ("lumina2", other):
        if name != "scene":
            tiny_pipelines.save(tiny_pipelines.PIPELINES[name](), tmp_path / name)
        spaces.append(FAMILIES[name](tmp_path / name).latent_space)
    with pytest.raises(ValueError, match=r"its latent space is another: .*, the run's model has "):
        check_same_latents(*spaces)


def test_both_sides_are_shown():
    here, there = (LatentSpace(settings={"channels": n, "scaling_factor": 0.5}, vae=None) for n in (16, 32))
    with pytest.raises(ValueError, match=r"another: channels 32, the run's model has 16$"):
        check_same_latents(here, there)
    check_same_latents(here, here)
