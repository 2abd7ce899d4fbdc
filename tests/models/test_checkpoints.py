"""Checkpoints of other projects load bit for bit under the keys that they really have, and damaged ones do not."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from smalti.errors import UserError
from smalti.models.checkpoints import load_encoder
from smalti.models.encoder import Encoder
from smalti.models.timm_backbone import TimmBackbone

State = dict[str, Tensor]

RESNET = TimmBackbone(name="resnet18", options={"channels": [8, 8, 16, 16]})  # a small file
VIT = TimmBackbone(name="vit_tiny_patch16_224", options={"patch_size": 16, "img_size": 32, "depth": 2})
SMALL = {"width": 0.125}


def weights(name: str = "resnet18", **options: Any) -> State:
    """Random tensors under timm's keys, all different, and step counters."""
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=0, **options).state_dict()
    draw = torch.Generator().manual_seed(1)
    return {
        key: torch.tensor(7) if key.endswith("tracked") else torch.rand(value.shape, generator=draw)
        for key, value in state.items()
    }


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def other(prefix: str, state: State) -> State:
    """Another network of the same architecture, never to be loaded."""
    return {prefix + key: torch.zeros_like(value) for key, value in state.items()}


def extra(*keys: str) -> State:
    return {key: torch.ones(2) for key in keys}


def numbered(state: State, first_stage: int) -> State:
    """A ResNet as `nn.Sequential`, whose stages begin at a position."""
    positions = {"conv1": 0, "bn1": 1} | {f"layer{i}": first_stage + i - 1 for i in range(1, 5)}
    split = ((key.partition("."), value) for key, value in state.items())
    return {f"{positions[name]}.{rest}": value for (name, _, rest), value in split}


def moco(state: State) -> Any:
    heads = extra("module.encoder_q.fc.0.weight", "module.encoder_k.fc.0.weight", "module.queue", "module.queue_ptr")
    both = under("module.encoder_q.", state) | other("module.encoder_k.", state)
    return {"epoch": 3, "arch": "resnet18", "state_dict": both | heads, "optimizer": {"state": {}}}


def mosrep(state: State) -> Any:
    both = under("module.encoder_q.", state) | other("module.encoder_k.", state)
    return {"state_dict": both | extra("module.projector_q.conv.0.weight", "module.queue")}


def moco_cifar(state: State) -> Any:
    state = numbered(state, first_stage=3)
    heads = extra("encoder_q.net.9.weight", "encoder_q.net.9.bias", "encoder_k.net.9.weight", "queue", "queue_ptr")
    return {"epoch": 9, "state_dict": under("encoder_q.net.", state) | other("encoder_k.net.", state) | heads}


def moco_v3(state: State) -> Any:
    both = under("module.base_encoder.", state) | other("module.momentum_encoder.", state)
    return {"state_dict": both | extra("module.base_encoder.fc.0.weight", "module.predictor.0.weight")}


def mcl(state: State) -> Any:
    necks = extra(
        *("encoder_q.1.lateral_convs.0.conv.weight", "encoder_q.1.fpn_convs.0.bn.running_mean"),
        *("encoder_q.2.cls_convs.0.conv.weight", "encoder_q.2.shared_fc.0.weight", "encoder_k.1.fpn_convs.0.bn.bias"),
        *("head.predictor.0.fc0.weight", "head.predictor.0.bn0.running_mean"),
    )
    same = under("encoder_q.0.", state) | under("backbone.", state)
    return {"meta": {"epoch": 1}, "state_dict": same | other("encoder_k.0.", state) | necks}


def openselfsup_moco(state: State) -> Any:
    same = under("module.encoder_q.0.", state) | under("module.backbone.", state)
    necks = extra("module.encoder_q.1.mlp.0.weight", "module.encoder_k.1.mlp2.0.bias", "module.queue2_ptr")
    return {"state_dict": same | other("module.encoder_k.0.", state) | necks}


def openselfsup_byol(state: State) -> Any:
    same = under("online_net.0.", state) | under("backbone.", state)
    heads = extra("online_net.1.fc0.weight", "target_net.1.fc0.weight", "head.predictor.fc0.weight")
    return {"meta": {}, "state_dict": same | other("target_net.0.", state) | heads}


def mmselfsup_byol(state: State) -> Any:
    heads = extra("neck.fc0.weight", "head.predictor.fc0.weight", "target_net.steps", "target_net.module.1.fc0.weight")
    return {"state_dict": under("backbone.", state) | other("target_net.module.0.", state) | heads}


def swav(state: State) -> Any:
    heads = extra("module.projection_head.0.weight", "module.projection_head.1.running_mean")
    prototypes = extra("module.prototypes.weight", "module.prototypes.prototypes0.weight")
    return under("module.", state) | heads | prototypes


def dino(state: State) -> Any:
    head = extra("head.mlp.0.weight", "head.last_layer.weight_g")
    return {
        "student": other("module.backbone.", state) | under("module.", head),
        "teacher": under("backbone.", state) | head,
        "args": argparse.Namespace(arch="resnet18", lr=0.1),
        "dino_loss": extra("center"),
    }


def barlow_twins(state: State) -> Any:
    heads = extra("module.projector.0.weight", "module.bn.running_mean", "module.bn.running_var")
    return {"epoch": 1000, "model": under("module.backbone.", state) | heads, "optimizer": {}}


def vicreg(state: State) -> Any:
    return {"epoch": 1, "model": under("module.backbone.", state) | extra("module.projector.0.weight")}


def pixpro(state: State) -> Any:
    heads = extra("module.projector.linear1.weight", "module.projector_k.bn1.bias", "module.value_transform.weight")
    both = under("module.encoder.", state) | other("module.encoder_k.", state)
    return {"opt": argparse.Namespace(lr=1.0), "model": both | heads, "epoch": 100}


def simsiam(state: State) -> Any:
    heads = extra("module.encoder.fc.0.weight", "module.predictor.0.weight")
    return {"state_dict": under("module.encoder.", state) | heads}


def cmc_moco(state: State) -> Any:
    head = extra("encoder.module.fc.weight")
    return {
        "opt": argparse.Namespace(moco=True),
        "model": under("encoder.module.", state) | head,
        "model_ema": other("encoder.module.", state) | head,
        "contrast": extra("params", "memory"),
    }


def byol_pytorch(state: State) -> Any:
    state = state | extra("fc.weight", "fc.bias")
    heads = extra("online_encoder.projector.0.weight", "online_predictor.0.weight", "target_encoder.projector.0.bias")
    return under("net.", state) | under("online_encoder.net.", state) | other("target_encoder.net.", state) | heads


def pytorch_byol(state: State) -> Any:
    state, head = numbered(state, first_stage=4), extra("projetion.net.0.weight")
    return {
        "online_network_state_dict": under("encoder.", state) | head,
        "target_network_state_dict": other("encoder.", state) | head,
    }


def lightly(state: State) -> Any:
    state = numbered(state, first_stage=4)
    heads = extra("projection_head.layers.0.weight", "projection_head_momentum.layers.0.weight", "criterion.queue")
    return {"state_dict": under("backbone.", state) | other("backbone_momentum.", state) | heads}


def lightly_cifar(state: State) -> Any:
    """Of its own ResNet, which has a shortcut and no modules between the first normalization and the first stage."""
    state = {key.replace("downsample", "shortcut"): value for key, value in numbered(state, first_stage=2).items()}
    return {"state_dict": under("backbone.", state) | extra("projection_head.layers.0.weight")}


def lightly_dino(state: State) -> Any:
    state = numbered(state, first_stage=4)
    heads = extra("student_head.layers.0.weight", "teacher_head.layers.0.weight", "criterion.center.center")
    return {"state_dict": under("teacher_backbone.", state) | other("student_backbone.", state) | heads}


def solo_learn(state: State) -> Any:
    heads = extra("classifier.weight", "projector.0.weight", "momentum_projector.0.weight", "dino_loss_func.center")
    return {"state_dict": under("backbone.", state) | other("momentum_backbone.", state) | heads, "epoch": 2}


def torchvision_like(state: State) -> Any:
    return state | extra("fc.weight", "fc.bias")


def compiled(state: State) -> Any:
    return {"state_dict": under("_orig_mod.module.", state)}


def cifar_resnet(state: State) -> Any:
    """The CIFAR ResNets that many supervised repositories share."""
    spelled = {key.replace("downsample", "shortcut"): value for key, value in state.items()}
    return {"net": 0, "model": under("module.", spelled | extra("linear.weight", "linear.bias"))}


def without_counters(state: State) -> Any:
    return {"model": {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}}


RESNETS = {
    "query": [moco, mosrep, moco_cifar, mcl, openselfsup_moco],
    "base": [moco_v3],
    "online": [openselfsup_byol, byol_pytorch],
    "teacher": [dino, lightly_dino],
    "": [
        *(mmselfsup_byol, swav, barlow_twins, vicreg, pixpro, simsiam, cmc_moco, pytorch_byol, lightly, lightly_cifar),
        *(solo_learn, torchvision_like, compiled, cifar_resnet, without_counters),
    ],
}
WRAPS = [(wrap, network) for network, wraps in RESNETS.items() for wrap in wraps]


def each_project(test: Callable[..., None]) -> Callable[..., None]:
    ids = [wrap.__name__ for wrap, _ in WRAPS]
    return pytest.mark.parametrize(("wrap", "network"), WRAPS, ids=ids)(test)


def load(content: Any, folder: Path, backbone: TimmBackbone | None = None) -> Encoder:
    torch.save(content, folder / "checkpoint.pth.tar")
    return load_encoder(folder / "checkpoint.pth.tar", backbone=backbone)


def assert_loaded(encoder: Encoder, expected: State) -> None:
    loaded = encoder.backbone.model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in loaded if not key.endswith("num_batches_tracked"))


@each_project
def test_foreign_checkpoints_load(wrap, network: str, tmp_path: Path) -> None:
    state = weights(**RESNET.options)
    encoder = load(wrap(state), tmp_path, RESNET)
    assert encoder.info.network == network
    assert_loaded(encoder, state)


@each_project
def test_a_lost_tensor_is_named(wrap, network: str, tmp_path: Path) -> None:
    state = weights(**RESNET.options)
    del state["layer3.1.conv2.weight"]
    with pytest.raises(UserError, match=r"got 1 missing: layer3\.1\.conv2\.weight \(\d+ of 126 matched\)"):
        load(wrap(state), tmp_path, RESNET)


@each_project
def test_a_tensor_of_another_shape_is_named(wrap, network: str, tmp_path: Path) -> None:
    state = weights(**RESNET.options)
    state["layer3.1.bn2.running_var"] = torch.zeros(5)
    with pytest.raises(UserError, match=r"got 1 missing: layer3\.1\.bn2\.running_var of shape \(5,\) instead of"):
        load(wrap(state), tmp_path, RESNET)


@each_project
def test_an_unexplained_tensor_is_named(wrap, network: str, tmp_path: Path) -> None:
    state = weights(**RESNET.options) | {"layer4.0.conv9.weight": torch.zeros(3)}
    with pytest.raises(UserError, match=r"got 1 unexpected: [\w.]*layer4\.0\.conv9\.weight "):
        load(wrap(state), tmp_path, RESNET)


def test_an_unknown_network_beside_the_encoder_is_refused(tmp_path: Path) -> None:
    state = under("backbone.", weights(**RESNET.options)) | {"generator.weight": torch.zeros(3)}
    with pytest.raises(UserError, match=r"got 1 unexpected: generator\.weight "):
        load(state, tmp_path, RESNET)


def test_two_different_networks_that_both_fit_are_refused(tmp_path: Path) -> None:
    state = weights(**RESNET.options)
    with pytest.raises(UserError, match=r"unexpected: backbone\.conv1\.weight"):
        load(under("encoder_q.0.", state) | other("backbone.", state), tmp_path, RESNET)


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    state = weights(**RESNET.options) | {"module.conv1.weight": torch.zeros(64, 3, 7, 7)}
    with pytest.raises(UserError, match=r"got 1 unexpected: module\.conv1\.weight "):
        load(state, tmp_path, RESNET)


@pytest.mark.parametrize("key", ["net.2.weight", "net.3.0.shortcut.0.weight"])
def test_a_layer_more_in_a_numbered_resnet_is_refused(key: str, tmp_path: Path) -> None:
    state = under("net.", numbered(weights(**RESNET.options), first_stage=3)) | extra("net.9.weight", key)
    with pytest.raises(UserError, match=r"got 1 unexpected: net\.(2\.weight|3\.0\.shortcut\.0\.weight) "):
        load(state, tmp_path, RESNET)


def test_a_second_spelling_of_a_tensor_is_refused(tmp_path: Path) -> None:
    state = weights(**RESNET.options)
    state["layer2.0.shortcut.0.weight"] = torch.zeros_like(state["layer2.0.downsample.0.weight"])
    with pytest.raises(UserError, match=r"got 1 unexpected: layer2\.0\.shortcut\.0\.weight "):
        load(state, tmp_path, RESNET)


def ibot(state: State) -> Any:
    heads = extra("head.mlp.0.weight", "head.last_layer2.weight_v", "backbone.masked_embed")
    return {"student": other("module.backbone.", state), "teacher": under("backbone.", state) | heads}


def mae(state: State) -> Any:
    decoder = extra("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.norm1.weight")
    return {"model": state | decoder | extra("decoder_norm.bias", "decoder_pred.weight")}


def moco_v3_vit(state: State) -> Any:
    both = under("module.base_encoder.", state) | other("module.momentum_encoder.", state)
    return {"state_dict": both | extra("module.base_encoder.head.0.weight", "module.predictor.0.weight")}


@pytest.mark.parametrize("wrap", [ibot, mae, moco_v3_vit, dino, vicreg, solo_learn])
def test_vision_transformers_load(wrap, tmp_path: Path) -> None:
    state = weights(VIT.name, **VIT.options)
    assert_loaded(load(wrap(state), tmp_path, VIT), state)
    with pytest.raises(UserError, match=r"got 1 missing: blocks\.1\.attn\.qkv\.bias "):
        load(wrap({key: state[key] for key in state if key != "blocks.1.attn.qkv.bias"}), tmp_path, VIT)
    with pytest.raises(UserError, match=r"got 1 unexpected: [\w.]*blocks\.2\.norm1\.bias "):
        load(wrap(state | {"blocks.2.norm1.bias": torch.zeros(2)}), tmp_path, VIT)


def narrow(base: int, stem: int, in_channels: int = 3) -> State:
    """A ResNet-18 whose stages begin with `base` channels, behind a stem of its own width."""
    channels = [base, 2 * base, 4 * base, 8 * base]
    state = weights(in_chans=in_channels, channels=channels)
    cut = {key: value[:stem] for key, value in state.items() if key.startswith(("conv1.", "bn1.")) and value.ndim}
    state |= cut | {"layer1.0.conv1.weight": state["layer1.0.conv1.weight"][:, :stem]}
    return {key: value for key, value in state.items() if stem != base or not key.startswith("layer1.0.downsample")}


def cmc(state: State, prefix: str) -> Any:
    """CMC's pair: "lightness." and "color." stand for its names."""
    spelled = {key.replace("lightness.", "l_to_ab.").replace("color.", "ab_to_l."): state[key] for key in state}
    model = under(prefix, spelled | extra("l_to_ab.fc.weight", "ab_to_l.fc.bias"))
    return {"opt": argparse.Namespace(), "model": model, "contrast": extra("memory_l"), "epoch": 1}


def halves(stem: int) -> State:
    return under("lightness.", narrow(8, stem, in_channels=1)) | under("color.", narrow(8, stem, in_channels=2))


@pytest.mark.parametrize("prefix", ["encoder.module.", "module.", ""])
@pytest.mark.parametrize("stem", [8, 64])
def test_cmc_loads_as_a_pair_or_as_either_half(prefix: str, stem: int, tmp_path: Path) -> None:
    state = halves(stem)
    pair = load(cmc(state, prefix), tmp_path)
    assert pair.info.backbone.color_space == "lab"
    statistics = {key: getattr(pair.backbone.model, key) for key in ("mean", "std")}
    assert statistics["mean"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert_loaded(pair, state | statistics)
    width = SMALL if stem == 8 else {"options": {"channels": [8, 16, 32, 64]}}
    for channels, half in ((1, "lightness"), (2, "color")):
        encoder = load(cmc(state, prefix), tmp_path, TimmBackbone(name="resnet18", in_channels=channels, **width))
        assert encoder.info.network == half
        assert_loaded(encoder, {key.partition(".")[2]: state[key] for key in state if key.startswith(half)})


@pytest.mark.parametrize("prefix", ["encoder.module.", ""])
@pytest.mark.parametrize("half", [None, 1, 2])
def test_a_damaged_cmc_is_refused(prefix: str, half: int | None, tmp_path: Path) -> None:
    config = half and TimmBackbone(name="resnet18", in_channels=half, **SMALL)
    key = "color.layer2.0.bn1.weight" if half == 2 else "lightness.layer2.0.bn1.weight"
    state = halves(8)
    name = key if half is None else key.partition(".")[2]
    with pytest.raises(UserError, match=f" 1 missing: {name}"):
        load(cmc({each: state[each] for each in state if each != key}, prefix), tmp_path, config)
    with pytest.raises(UserError, match=f" 1 missing: {name} of shape \\(3,\\) instead of \\(16,\\)"):
        load(cmc(state | {key: torch.zeros(3)}, prefix), tmp_path, config)
    with pytest.raises(UserError, match=f" 1 unexpected: [\\w.]*{name}_again"):
        load(cmc(state | {f"{key}_again": torch.zeros(3)}, prefix), tmp_path, config)


def test_half_of_a_cmc_is_not_taken_for_three_channels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"conv1\.weight of shape \(8, 1, 7, 7\) instead of \(8, 3, 7, 7\)"):
        load(cmc(halves(8), ""), tmp_path, TimmBackbone(name="resnet18", **SMALL))


@pytest.mark.parametrize("wrap", [moco, mcl, swav, byol_pytorch, pytorch_byol, lightly, cmc_moco, pixpro])
@pytest.mark.parametrize(("stem", "expected"), [(8, SMALL), (64, {"options": {"channels": [8, 16, 32, 64]}})])
def test_resnets_of_any_width_are_recognized(wrap, stem: int, expected: dict, tmp_path: Path) -> None:
    state = narrow(8, stem)
    encoder = load(wrap(state), tmp_path)
    assert encoder.info.backbone == TimmBackbone(name="resnet18", **expected)
    assert_loaded(encoder, state)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda state: state.pop("layer2.0.bn1.weight"), "119 of 120 tensors matched, 1 missing: layer2.0.bn1.weight;"),
        (
            lambda state: state.update({"conv1.weight": torch.zeros(8, 3, 3, 3)}),
            "119 of 120 tensors matched, 1 missing: conv1.weight of shape (8, 3, 3, 3) instead of (8, 3, 7, 7);",
        ),
        (
            lambda state: state.update(extra("stem.a", "stem.b", "stem.c", "stem.d")),
            "120 of 120 tensors matched, 4 unexpected: encoder_q.stem.a, encoder_q.stem.b, encoder_q.stem.c, ...;",
        ),
    ],
)
def test_the_nearest_candidate_and_its_problems_are_told(damage, complaint: str, tmp_path: Path) -> None:
    state = narrow(8, stem=8)
    damage(state)
    with pytest.raises(UserError) as caught:
        load(moco(state), tmp_path)
    assert f"fits no known architecture exactly; the nearest is resnet18 with {complaint}" in str(caught.value)
    assert "give it as backbone=TimmBackbone(name=..., stem=..." in str(caught.value)


def test_branches_that_are_numbered_keep_their_names(tmp_path: Path) -> None:
    """HRNet has a first stage as ResNets do, and four numbered branches."""
    state = weights("hrnet_w18_small")
    assert_loaded(load(state, tmp_path, TimmBackbone(name="hrnet_w18_small")), state)


def test_torchvision_weights_load(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = torchvision.models.resnet18().eval()
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")
    loaded = load_encoder(tmp_path / "resnet18.pth")
    assert loaded.info.extra["loaded"] == {"matched": 120, "dropped": 2}
    model.fc = torch.nn.Identity()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.backbone(pixels).pooled, model(pixels), rtol=1e-5, atol=1e-5)


def test_timm_weights_load_with_the_architecture_given(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model("convnext_atto", num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = load_encoder(tmp_path / "model.safetensors", backbone=TimmBackbone(name="convnext_atto"))
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(pixels), pre_logits=True)
        assert torch.equal(loaded.backbone(pixels).pooled, expected)
    with pytest.raises(UserError, match="fits no known architecture exactly; the nearest is resnet18"):
        load_encoder(tmp_path / "model.safetensors")


def test_a_small_vit_of_moco_v3_has_twelve_heads(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in timm.create_model("vit_small_patch16_224").state_dict().items()}
    state = {key: torch.zeros(shape) for key, shape in shapes.items()}
    torch.save({"state_dict": under("module.base_encoder.", state)}, tmp_path / "v3.pth.tar")
    torch.save({"teacher": under("backbone.", state)}, tmp_path / "dino.pth")
    heads = [
        load_encoder(tmp_path / name).backbone.model.blocks[0].attn.num_heads for name in ("v3.pth.tar", "dino.pth")
    ]
    assert heads == [12, 6]


class Payload:
    """Stands for the class of somebody's training code inside a checkpoint."""


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"state_dict": {}, "args": Payload()}, "holds more than tensors and plain values"),
        ({"epoch": 3}, "without a state dict"),
        ([1, 2], "without a state dict"),
    ],
)
def test_unusable_checkpoints_are_refused(content, complaint: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match=complaint):
        load_encoder(tmp_path / "checkpoint.pth")
