import numpy as np
import pytest

from fields.evaluation.base import ExamResult, picture_of, thumbnail


def flat(level, height=4, width=6):
    return np.full((3, height, width), level, dtype=np.float32)


def test_a_picture_has_each_image_in_its_place_with_a_white_rim():
    images = np.linspace(-0.5, 0.9, 5)[:, None, None, None] * np.ones((5, 3, 4, 6))
    picture = picture_of(images, columns=3)
    assert picture.shape == (3, 2 * 6, 3 * 8)
    for n, level in enumerate((0.0, 0.0, 0.2, 0.55, 0.9)):
        row, column = divmod(n, 3)
        tile = picture[:, 6 * row : 6 * row + 6, 8 * column : 8 * column + 8]
        np.testing.assert_allclose(tile[:, 1:-1, 1:-1], level, atol=1e-9)
        np.testing.assert_array_equal(tile[:, [0, -1]], 1.0)
        np.testing.assert_array_equal(tile[:, :, [0, -1]], 1.0)


def test_a_result_shows_a_line_a_sheet_whatever_the_sizes_and_numbers():
    answers = [[flat(0.1), flat(0.2)], [flat(0.3, 2, 8)]]
    picture = ExamResult(answers=answers, skills={}).picture
    assert picture.shape == (3, 2 * (4 + 2), 2 * (8 + 2))
    np.testing.assert_allclose(picture[:, 1:5, 1:7], 0.1)
    np.testing.assert_allclose(picture[:, 1:5, 11:17], 0.2)
    np.testing.assert_allclose(picture[:, 7:9, 1:9], 0.3, rtol=1e-6)
    np.testing.assert_array_equal(picture[:, 6:, 10:], 1.0)  # the second line has no second image


def test_a_result_shows_the_first_eight_of_a_sheet():
    assert ExamResult(answers=[list(np.zeros((20, 3, 4, 6), np.float32))], skills={}).picture.shape == (3, 6, 8 * 8)


@pytest.mark.parametrize(("size", "small"), [((512, 1024), (128, 256)), ((300, 10), (256, 9)), ((2000, 1), (256, 1))])
def test_large_images_become_thumbnails(size, small):
    shrunk = thumbnail(flat(0.5, *size))
    assert shrunk.shape == (3, *small)
    np.testing.assert_allclose(shrunk, 0.5, atol=0.6 / 255)


def test_small_images_stay_as_they_are():
    image = flat(1.5, 256, 10)
    assert thumbnail(image) is image
