import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fields.scene.world import (
    ALL_THINGS,
    BACKGROUNDS,
    CELL,
    COLOURS,
    PLAIN,
    SHAPES,
    STYLES,
    Scene,
    Thing,
    join_cells,
    render,
    render_cell,
    split_cells,
)

THINGS = st.one_of(st.none(), st.sampled_from(ALL_THINGS))
SCENES = st.builds(Scene, st.sampled_from(sorted(BACKGROUNDS)), st.tuples(*[THINGS] * 9), st.sampled_from((PLAIN, *STYLES)))
CENTRE = slice(CELL // 2 - 1, CELL // 2 + 1)


@given(SCENES)
def test_images_are_in_range_and_deterministic(scene):
    image = render(scene)
    assert image.shape == (3, 24, 24)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() <= 1
    render_cell.cache_clear()
    assert np.array_equal(render(Scene(scene.background, scene.cells, scene.style)), image)


@given(st.integers(0, 2**32 - 1))
def test_split_and_join_are_inverse(seed):
    image = np.random.default_rng(seed).random((3, 24, 24))
    cells = split_cells(image)
    assert np.array_equal(join_cells(cells), image)
    for cell in range(9):
        row, column = divmod(cell, 3)
        assert np.array_equal(cells[cell], image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8])


@given(SCENES, st.integers(0, 8), THINGS)
def test_with_cell_changes_one_cell_of_the_image(scene, cell, thing):
    before, after = split_cells(render(scene)), split_cells(render(scene.with_cell(cell, thing)))
    others = [c for c in range(9) if c != cell]
    assert np.array_equal(after[others], before[others])
    assert np.array_equal(after[cell], render_cell(thing, scene.background, scene.style))


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("thing", ALL_THINGS, ids=lambda thing: f"{thing.colour} {thing.shape}")
def test_a_thing_has_its_colour_in_the_middle_and_the_background_in_the_corners(thing, background):
    cell = render_cell(thing, background)
    np.testing.assert_allclose(cell[:, CENTRE, CENTRE], np.broadcast_to(_column(COLOURS[thing.colour]), (3, 2, 2)), rtol=1e-6)
    np.testing.assert_allclose(
        cell[:, [0, 0], [0, -1]], np.broadcast_to(_column(BACKGROUNDS[background])[:, 0], (3, 2)), rtol=1e-6
    )


def _column(colour):
    return np.array(colour)[:, None, None]


def coverage(shape):
    """How much of the cell a shape covers: the green channel of a shape between two known levels."""
    thing = Thing(shape, "red")
    cell, ground, colour = render_cell(thing, "white")[1], BACKGROUNDS["white"][1], COLOURS["red"][1]
    return float(((ground - cell) / (ground - colour)).mean())


AREAS = {
    "circle": np.pi * 0.85**2 / 4,
    "square": 0.75**2,
    "triangle": 0.5 * 1.6 * 1.8 / 4,
    "cross": (2 * 1.75 * 0.52 - 0.52**2) / 4,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_cover_their_geometric_area(shape):
    assert coverage(shape) == pytest.approx(AREAS[shape], rel=0.05)


def test_everything_that_can_be_drawn_in_a_cell_looks_different():
    """By ten levels of 255, root mean square, at the least."""
    for style in (PLAIN, "negative"):
        for background in BACKGROUNDS:
            cells = np.stack([render_cell(thing, background, style).ravel() for thing in (None, *ALL_THINGS)]).astype(float)
            distance = np.sqrt(((cells[:, None] - cells) ** 2).mean(axis=2))
            assert distance[~np.eye(len(cells), dtype=bool)].min() > 0.04


@given(SCENES)
def test_styles_are_what_their_names_say(scene):
    plain, negative, grey = (render(Scene(scene.background, scene.cells, s)) for s in (PLAIN, "negative", "monochrome"))
    np.testing.assert_allclose(negative, 1 - plain, atol=1e-6)
    luminance = 0.299 * plain[0] + 0.587 * plain[1] + 0.114 * plain[2]
    np.testing.assert_allclose(grey, np.broadcast_to(luminance, (3, 24, 24)), atol=1e-6)


@pytest.mark.parametrize("shape", ["circle", "square"])
def test_an_outline_is_the_shape_without_its_inside(shape):
    outline, plain = (render_cell(Thing(shape, "blue"), "white", style) for style in ("outline", PLAIN))
    ground = _column(BACKGROUNDS["white"])
    np.testing.assert_allclose(outline[:, CENTRE, CENTRE], np.broadcast_to(ground, (3, 2, 2)), rtol=1e-6)
    assert (np.abs(outline - ground) <= np.abs(plain - ground) + 1e-6).all()
    assert np.abs(outline - ground).sum() > 0.3 * np.abs(plain - ground).sum()


def test_rendered_cells_are_shared_and_cannot_be_written_to():
    cell = render_cell(ALL_THINGS[0], "black")
    with pytest.raises(ValueError, match="read-only"):
        cell[0, 0, 0] = 1
