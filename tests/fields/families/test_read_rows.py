"""What a family reads of its rows: bad ones are named, images of any mode and size, prompts that are too long."""

import io
import logging

import numpy as np
import pytest
import torch
from family_rows import png, row
from PIL import Image
from tiny_pipelines import SIZE

from fields.data.images import decode_image, encode_png
from fields.registry import FAMILIES

WIDTH, HEIGHT = SIZE.image


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sd3", {"width": 64, "height": 100}, "row 'u7': its size is 64 x 100; sides are multiples of 16"),
        ("sana", {"width": 48, "height": 64}, "row 'u7': its size is 48 x 64; sides are multiples of 32"),
        ("sd3", {"source_image": png(0)}, "row 'u7' has a source image; family sd3 takes none"),
        ("qwen_image_edit", {"source_image": None}, "row 'u7' has no source image; family qwen_image_edit edits one"),
        (
            "flux",
            {"source_image": png(0), "more_sources": (png(1),)},
            "row 'u7' has 2 source images; family flux takes 1 at most",
        ),
        (
            "qwen_image_edit",
            {"source_image": png(0), "more_sources": (png(1),) * 2},
            "row 'u7' has 3 source images; family qwen_image_edit takes 1 at most",
        ),
        ("flux2", {"source_image": png(0), "more_sources": (b"junk",)}, "row 'u7': the image of 4 bytes does not decode"),
        ("flux", {"source_image": b"junk"}, "row 'u7': the image of 4 bytes does not decode"),
    ],
)
def test_a_row_that_cannot_be_encoded(tiny, name, changes, message):
    family = tiny(name).family
    for check in (family.check_row, lambda bad: family.encode([bad])):
        with pytest.raises(ValueError, match=message):
            check(row(family, **changes))


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "I;16", "L"])
def test_source_images_of_any_mode_and_size(tiny, mode):
    """As `decode_image` reads them, in the size of the row."""
    family = tiny("flux").family
    image = Image.open(io.BytesIO(png(4))).resize((WIDTH * 2, HEIGHT * 2))
    grey = np.asarray(image.convert("L")).astype(np.uint16)
    image = Image.fromarray(grey * 257) if mode == "I;16" else image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, format="TIFF")
    found = family.encode([row(family, source_image=stream.getvalue())]).tensors["source"]
    plain = encode_png(decode_image(stream.getvalue(), "u"))
    assert torch.equal(found, family.encode([row(family, source_image=plain)]).tensors["source"])
    assert found.shape == (1, *family.latent_shape())


@pytest.mark.parametrize(("name", "most"), [("sd3", 254), ("flux", 510), ("sana", 297), ("auraflow", 254)])
def test_prompts_that_are_too_long_are_counted_and_warned_of_once(tiny, caplog, name, most):
    """A word is a token here, and two more mark the ends."""
    family = FAMILIES[name](tiny(name).folder, size=SIZE)
    fitting, long = (row(family, " ".join(["cat"] * count)) for count in (most, most + 1))
    with caplog.at_level(logging.WARNING, logger="fields.families.pipeline"):
        family.encode([fitting, long, fitting, long, long])
    assert family.truncated_prompts == 3
    (record,) = [record for record in caplog.records if record.name == "fields.families.pipeline"]
    assert f"row 'u7': its prompt has {most + 3} tokens" in record.getMessage()
