"""Statistics standardize what they were measured on, and 8-bit color as published weights expect."""

import re
import warnings

import numpy as np
import pytest

from smalti.errors import UserError
from smalti.images.array import ArraySource
from smalti.images.folder import FolderSource
from smalti.images.statistics import PixelStatistics, measure


def folder_of(tmp_path, images):
    for index, image in enumerate(images):
        np.save(tmp_path / f"{index:03d}.npy", image)
    return FolderSource(tmp_path, channels=images[0].shape[2])


def standardized(images, statistics):
    pixels = np.concatenate([image.reshape(-1, image.shape[2]) for image in images]).astype(np.float64)
    scaled = (pixels - statistics.low) / (statistics.high - statistics.low)
    return (scaled - statistics.mean) / statistics.std


def test_eight_bit_color_takes_imagenets(tree):
    root = tree("a.png", "b.png")
    (root / "a.png").write_bytes(b"")
    statistics = measure(FolderSource(root))
    assert (statistics.low, statistics.high) == (0, 255)
    assert statistics.mean == (0.485, 0.456, 0.406)
    assert statistics.std == (0.229, 0.224, 0.225)


def test_twelve_bits_in_sixteen_get_their_contrast_back(tmp_path):
    images = [np.random.default_rng(0).integers(0, 4096, (16, 24, 1), dtype=np.uint16) for _ in range(3)]
    statistics = measure(folder_of(tmp_path, images))
    assert (statistics.low, statistics.high) == (0, 65535)
    values = standardized(images, statistics)
    np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=1e-6)


def test_floats_span_the_measured_range_channel_by_channel(tmp_path):
    generator = np.random.default_rng(1)
    images = [generator.normal([1000, -5], [1, 0.2], (10 + side, 12, 2)).astype(np.float32) for side in range(4)]
    statistics = measure(folder_of(tmp_path, images))
    assert statistics.low == min(image.min() for image in images)
    assert statistics.high == max(image.max() for image in images)
    # channel 1 spans about 0.0002 of the range, so the floor of 0.001 applies there
    values = standardized(images, statistics)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
    assert statistics.std[1] == 1e-3


def clipped_share(statistics, image):
    return float(((image < statistics.low) | (image > statistics.high)).mean())


def test_five_bright_images_of_a_thousand_keep_their_pixels(tmp_path):
    generator = np.random.default_rng(2)
    images = [generator.random((12, 12, 1), dtype=np.float32) for _ in range(1000)]
    for index in (3, 250, 511, 700, 998):
        images[index] *= 9.97
    statistics = measure(folder_of(tmp_path, images))
    assert max(clipped_share(statistics, image) for image in images) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        brightest = statistics.to_unit(images[511])
    assert len(np.unique(brightest)) == len(np.unique(images[511]))


@pytest.mark.parametrize("missing", [-3.4028235e38, 3.4028235e38, -9999.0, -32768.0])
def test_missing_pixels_are_named_and_no_part_of_the_range(tmp_path, missing):
    generator = np.random.default_rng(3)
    images = [generator.normal(100, 10, (20, 20, 2)).astype(np.float32) for _ in range(5)]
    expected = measure(folder_of(tmp_path, images))
    for image in images[::2]:
        image[:3, :4] = missing
    with pytest.warns(
        UserWarning, match=re.escape(f"taken for missing, which become the least value: 72 of {missing:g}")
    ):
        statistics = measure(folder_of(tmp_path, images))
    assert statistics.low >= expected.low
    assert statistics.high <= expected.high
    np.testing.assert_allclose(statistics.mean, expected.mean, atol=0.05)
    np.testing.assert_allclose(statistics.std, expected.std, rtol=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unit = statistics.to_unit(images[0])
    assert (unit[:3, :4] == 0).all()
    assert unit[3:].std() > 0.1


def test_a_fill_value_among_others_is_a_value(tmp_path):
    depths = np.linspace(-11_000, 0, 400, dtype=np.float32).reshape(20, 20, 1)
    depths[5, 5] = -9999
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        statistics = measure(folder_of(tmp_path, [depths]))
        assert (statistics.low, statistics.high) == (-11_000, 0)
        assert abs(statistics.to_unit(depths)[5, 5, 0] - 1001 / 11_000) < 1e-6


def test_one_broken_pixel_does_not_leave_all_others_alike(tmp_path):
    images = [np.random.default_rng(4).random((40, 40, 1), dtype=np.float32) for _ in range(3)]
    images[1][7, 7] = 1e9
    statistics = measure(folder_of(tmp_path, images))
    assert statistics.high < 100
    assert standardized(images[::2], statistics).std() > 0.3
    with pytest.warns(UserWarning, match=r"outside of .* are clipped"):
        assert statistics.to_unit(images[1])[7, 7] == 1


def test_clipping_is_told_once(tmp_path):
    statistics = PixelStatistics(low=0, high=1.5, mean=(0.5,), std=(0.2,))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for value in (2, 3, -1):
            statistics.to_unit(np.full((4, 4, 1), value, np.float32))
    assert [str(each.message) for each in told] == ["pixel values outside of 0 to 1.5 are clipped"]


@pytest.mark.parametrize("high", [255, 65535])
def test_floats_between_0_and_1_are_not_black_to_an_encoder_of_whole_numbers(high):
    statistics = PixelStatistics(low=0, high=high, mean=(0.5,), std=(0.25,))
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16, 1)
    scaled = statistics.alike(ramp)
    np.testing.assert_allclose(scaled, ramp * high, atol=0.5)
    np.testing.assert_allclose(statistics.alike(ramp * high), ramp * high, atol=0.5)


def test_many_channels_are_measured_on_the_full_range():
    images = np.random.default_rng(2).integers(0, 256, (6, 9, 9, 5)).astype(np.uint8)
    images[..., 4] = 51
    statistics = measure(ArraySource("x", images))
    assert (statistics.low, statistics.high) == (0, 255)
    np.testing.assert_allclose(statistics.mean, images.mean(axis=(0, 1, 2)) / 255, atol=1e-9)
    np.testing.assert_allclose(statistics.std[:4], images.std(axis=(0, 1, 2))[:4] / 255, atol=1e-9)
    assert statistics.std[4] == 1e-3


def test_a_constant_float_set_does_not_divide_by_nothing(tmp_path):
    statistics = measure(folder_of(tmp_path, [np.full((4, 4, 1), 7, np.float32)]))
    assert np.isfinite([statistics.low, statistics.high, *statistics.mean, *statistics.std]).all()
    assert statistics.high > statistics.low


def test_the_sample_is_spread_and_repeatable():
    images = np.repeat(np.arange(200, dtype=np.uint8), 4).reshape(200, 2, 2, 1)
    source = ArraySource("x", images)
    few = measure(source, sample=20)
    assert few == measure(source, sample=20)
    assert abs(few.mean[0] - images.mean() / 255) < 0.02
    assert few != measure(source, sample=20, seed=1)


def test_mixed_depths_follow_the_commonest_and_land_on_its_range(tmp_path):
    deep, shallow = np.full((4, 4, 1), 65535, np.uint16), np.full((4, 4, 1), 255, np.uint8)
    statistics = measure(folder_of(tmp_path, [deep, deep // 2, shallow]))
    assert (statistics.low, statistics.high) == (0.0, 65535.0)
    assert statistics.to_unit(shallow).dtype == np.float32
    assert np.all(statistics.to_unit(shallow) == 1)
    assert np.all(statistics.to_unit(deep) == 1)


def test_8_bit_statistics_make_everything_8_bit_without_clipping():
    statistics = PixelStatistics(low=0, high=255, mean=(0.5,), std=(0.25,))
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    converted = statistics.to_unit(ramp)
    assert converted.dtype == np.uint8
    assert np.bincount(converted.ravel()).min() > 100
    shallow = converted[:4]
    assert statistics.to_unit(shallow) is shallow


def test_an_unreadable_set_is_a_user_error(tree):
    root = tree("a.png")
    (root / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="no sampled image can be used"):
        measure(FolderSource(root))
