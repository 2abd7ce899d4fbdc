"""Channel counts change by the stated rule only."""

import numpy as np
import pytest

from smalti.errors import BadImageError
from smalti.images.layout import to_channels

TYPES = [np.uint8, np.uint16, np.float32]


def noise(channels: int, dtype: type) -> np.ndarray:
    top = 1 if dtype is np.float32 else np.iinfo(dtype).max
    return (np.random.default_rng(channels).random((5, 7, channels)) * top).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_the_same_count_is_the_same_array(channels, dtype):
    image = noise(channels, dtype)
    assert to_channels(image, channels) is image


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [1, 2])
def test_gray_is_repeated_and_alpha_dropped(channels, dtype):
    image = noise(channels, dtype)
    np.testing.assert_array_equal(to_channels(image, 3), np.repeat(image[..., :1], 3, axis=2))
    np.testing.assert_array_equal(to_channels(image, 1), image[..., :1])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [3, 4])
def test_color_becomes_luma(channels, dtype):
    image = noise(channels, dtype)
    luma = (image[..., :3].astype(np.float64) @ [0.299, 0.587, 0.114])[..., None]
    gray = to_channels(image, 1)
    assert gray.dtype == dtype
    np.testing.assert_allclose(gray, luma, atol=1e-6 if dtype is np.float32 else 2)


@pytest.mark.parametrize("dtype", TYPES)
def test_alpha_of_color_is_dropped(dtype):
    image = noise(4, dtype)
    color = to_channels(image, 3)
    np.testing.assert_array_equal(color, image[..., :3])
    assert color.flags.c_contiguous


@pytest.mark.parametrize(("present", "wanted"), [(5, 3), (5, 1), (3, 4), (1, 4), (3, 2), (1, 2), (4, 5)])
def test_no_channel_is_invented_or_picked(present, wanted):
    with pytest.raises(BadImageError, match=f"has {present} channels, {wanted} were asked for"):
        to_channels(noise(present, np.uint8), wanted)
