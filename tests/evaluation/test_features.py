"""Features come in the order of the source, of the pixels that the papers' protocol leaves, and survive a file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeSource
from torchvision.transforms.v2 import functional as transforms

from smalti.errors import UserError
from smalti.evaluation.features import FeatureSet, extract_features, prepare
from smalti.images.statistics import PixelStatistics
from smalti.models.backbone import Backbone
from smalti.models.encoder import Encoder, EncoderInfo
from smalti.models.timm_backbone import TimmBackbone


def make_encoder(channels: int = 3, high: float = 255.0) -> Encoder:
    config = TimmBackbone(name="resnet18", stem="stride8", in_channels=channels, options={"channels": [8, 8, 16, 16]})
    pixels = PixelStatistics(low=0.0, high=high, mean=(0.5,) * channels, std=(0.25,) * channels)
    torch.manual_seed(0)
    return Encoder(Backbone(config.build()), EncoderInfo(backbone=config, pixels=pixels, image_size=16))


def make_images(count: int, side: int = 16, channels: int = 3, dtype: type = np.uint8) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    high = np.iinfo(dtype).max
    return [generator.integers(0, high, (side, side, channels), dtype=dtype) for _ in range(count)]


def direct(encoder: Encoder, image: np.ndarray) -> np.ndarray:
    """The features of one square image, straight through the encoder."""
    encoder.eval()
    with torch.no_grad():
        return encoder(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()


@pytest.mark.parametrize("workers", [0, 1])
def test_order_labels_and_names_survive_bad_images(workers: int) -> None:
    encoder = make_encoder()
    images = make_images(7)
    source = FakeSource([*images[:2], None, *images[2:], None], labels=[0, 1, 0, 1, 2, 0, 1, 2, 2])
    result = extract_features(encoder, source, batch_size=3, workers=workers)
    assert result.names == tuple(f"fake/{index}" for index in (0, 1, 3, 4, 5, 6, 7))
    assert result.skipped == (("fake/2", "truncated"), ("fake/8", "truncated"))
    assert result.labels.tolist() == [0, 1, 1, 2, 0, 1, 2]
    assert result.class_names == ("class0", "class1", "class2")
    assert result.features.dtype == np.float32
    assert result.features.std(axis=0).max() > 0.01
    for features, image in zip(result.features, images, strict=True):
        np.testing.assert_allclose(features, direct(encoder, image), rtol=1e-4, atol=1e-5)


def test_a_whole_batch_may_be_bad() -> None:
    source = FakeSource([None, None, *make_images(1)])
    assert extract_features(make_encoder(), source, batch_size=2).names == ("fake/2",)


def test_no_readable_image_is_an_error() -> None:
    source = FakeSource(make_images(1))
    source.images = [None, None]
    with pytest.raises(UserError, match=r"got fake without a readable image \(the first: truncated\)"):
        extract_features(make_encoder(), source)


def test_channels_must_agree() -> None:
    with pytest.raises(UserError, match="got images of 1 channels in fake; expected 3"):
        extract_features(make_encoder(), FakeSource(make_images(2, channels=1)))


def test_half_precision_needs_cuda() -> None:
    with pytest.raises(UserError, match="autocast on cpu"):
        extract_features(make_encoder(), FakeSource(make_images(2)), autocast=True)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    shallow = make_images(3)
    deep = [image.astype(np.uint16) * 257 for image in shallow]
    expected = extract_features(make_encoder(), FakeSource(shallow)).features
    given = extract_features(make_encoder(high=65535.0), FakeSource(deep)).features
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("high", [255.0, 65535.0])
def test_depths_may_be_mixed(high: float) -> None:
    shallow = make_images(4)
    mixed = [image if index % 2 else image.astype(np.uint16) * 257 for index, image in enumerate(shallow)]
    expected = extract_features(make_encoder(), FakeSource(shallow)).features
    given = extract_features(make_encoder(high=high), FakeSource(mixed)).features
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


def test_sixteen_bit_and_resized_images_share_a_batch() -> None:
    images = [*make_images(1, 16, 1, np.uint16), *make_images(1, 24, 1, np.uint16)]
    assert len(extract_features(make_encoder(1, 65535.0), FakeSource(images))) == 2


def test_modes_and_weights_are_left_as_they_were() -> None:
    encoder = make_encoder().train()
    encoder.backbone.model.bn1.eval()
    modes = [module.training for module in encoder.modules()]
    extract_features(encoder, FakeSource(make_images(2)))
    assert [module.training for module in encoder.modules()] == modes
    assert encoder.backbone.model.layer1[0].bn1.num_batches_tracked == 0


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (256, 256), (100, 90), (224, 300), (333, 500)])
def test_resize_and_center_crop_are_those_of_the_papers(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    given = prepare(image, 224, 256)
    expected = transforms.resize(torch.from_numpy(image).permute(2, 0, 1), [256], antialias=True)
    expected = transforms.center_crop(expected, [224, 224])
    assert given.dtype == torch.uint8
    assert given.shape == (3, 224, 224)
    assert torch.equal(given, expected)


def test_an_image_of_the_right_size_is_taken_as_it_is() -> None:
    image = make_images(1, 32)[0]
    np.testing.assert_array_equal(prepare(image, 32, 37).permute(1, 2, 0).numpy(), image)


def test_the_crop_is_the_center() -> None:
    image = np.zeros((8, 12, 1), dtype=np.uint8)
    image[2:6, 4:8] = 200
    assert (prepare(image, 4, 8) == 200).all()


@pytest.mark.parametrize("labels", [None, np.array([1, 0], dtype=np.int64)])
def test_features_survive_a_file(labels: np.ndarray | None, tmp_path: Path) -> None:
    skipped = (("ü/c.png", "truncated"),)
    before = FeatureSet(np.eye(2, 3, dtype=np.float32), labels, ("a.png", "b.png"), ("x", "y"), skipped)
    before.save(tmp_path / "f.npz")
    after = FeatureSet.load(tmp_path / "f.npz")
    np.testing.assert_array_equal(after.features, before.features)
    np.testing.assert_array_equal(after.labels, before.labels)
    assert (after.names, after.class_names, after.skipped) == (before.names, before.class_names, before.skipped)
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]


def test_files_that_hold_no_features_are_refused(tmp_path: Path) -> None:
    features = FeatureSet(np.zeros((1, 1), dtype=np.float32), None, ("a",))
    with pytest.raises(UserError, match=r"expected a file that ends in \.npz"):
        features.save(tmp_path / "f.npy")
    (tmp_path / "f.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UserError, match="cannot be read as features"):
        FeatureSet.load(tmp_path / "f.npz")
