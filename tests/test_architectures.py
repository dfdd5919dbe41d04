"""C by replacing is the network, at layers of the architectures that people use: torchvision's, timm's, transformers'.

The weights are random, so nothing is downloaded, and most networks are built far smaller than they are known. What is
in the tables is known of each architecture: whether all goes through a layer, and what its dimensions mean.
"""

import importlib

import pytest
import torch
import torchvision
from torchvision.models.convnext import CNBlockConfig

from invariance import load_model
from invariance.errors import UserError
from invariance.models.cut import Cut
from invariance.models.hooks import evaluating, forward, logits_in
from invariance.models.layers import TRUE_CUT, list_layers
from invariance.models.naming import read_layer, submodules

FIRST, LAST, VECTOR = ("channels_first", 0), ("channels_last", 0), ("vector", 0)
"""Layouts by their kind and the tokens before the patches."""

MOST, FEW = 40, 6
"""Layers of a small and of a large network, evenly spread over all, at which φ(gx) is put back."""

LARGE = 10**6
"""Weights of a large network."""


def tokens(prefix=0):
    return ("tokens", prefix)


def images(sides, seed=0):
    return torch.randn(3, 3, *sides, generator=torch.Generator().manual_seed(seed))


def awake(network):
    """The network with noise on what begins as one number: heads and scales of branches at 0 or 1e-6, class tokens."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weights in network.parameters():
            if weights.numel() > 1 and bool((weights == weights.flatten()[0]).all()):
                weights.add_(0.2 * torch.randn(weights.shape, generator=generator))
    return network.eval()


def of_torchvision(name, folder, **settings):
    return getattr(torchvision.models, name)(num_classes=10, **settings)


def of_timm(name, folder, **settings):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    if name == "mlp_mixer":  # what is known by a name has its sizes
        return importlib.import_module("timm.models.mlp_mixer").MlpMixer(num_classes=10, **settings)
    return timm.create_model(name, num_classes=10, **settings)


def of_transformers(name, folder, *, size=32, **settings):
    """A network of transformers, by its configuration, as `load_model` finds it in a folder."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    family = next(one for one in (name.partition("For")[0], name.removesuffix("Model")) if one != name)
    config = getattr(transformers, f"{family}Config")(**settings)
    config.num_labels, config.architectures = 10, [name]
    config.save_pretrained(folder)
    return load_model(f"hugging_face/{folder}", weights="random", preprocess=([0.5] * 3, [0.5] * 3), size=size).module


VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2}
SWIN = {"window_size": 4, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 2)}
HF_SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
HF = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
HF |= {"image_size": 32, "patch_size": 8}

WIDE = (64, 96)
ARCHITECTURES = {
    "torchvision/resnet18": (
        {},
        WIDE,
        {
            "maxpool": (0, FIRST, "mean"),
            "layer1.0.relu#1": (1, FIRST, "mean"),  # one module that runs twice, in place
            "layer2.0.relu#2": (0, FIRST, "mean"),
            "layer3.1.conv2": (1, FIRST, "mean"),
            "avgpool": (0, FIRST, "mean"),
        },
    ),
    "torchvision/mobilenet_v2": (
        {"width_mult": 0.25},
        WIDE,
        {
            "features.3": (0, FIRST, "mean"),
            "features.3.conv.1.0": (1, FIRST, "mean"),
            "features.18": (0, FIRST, "mean"),
            "classifier.0": (0, VECTOR, "flatten"),
        },
    ),
    "torchvision/DenseNet": (
        {"growth_rate": 8, "block_config": (2, 2), "num_init_features": 8},
        WIDE,
        {
            "features.conv0": (0, FIRST, "mean"),
            "features.denseblock2.denselayer2": (1, FIRST, "mean"),
            "features.transition1": (0, FIRST, "mean"),
        },
    ),
    "torchvision/VisionTransformer": (
        {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 32},
        (32, 32),
        {
            "conv_proj": (0, FIRST, "mean"),
            "encoder.layers.encoder_layer_0": (0, tokens(1), "token:2"),
            "encoder.layers.encoder_layer_0.self_attention[0]": (1, tokens(1), "mean"),
            "encoder.layers.encoder_layer_0.mlp.0": (1, tokens(1), "mean"),
            "encoder.ln": (0, tokens(1), "cls"),
        },
    ),
    "torchvision/SwinTransformer": (
        {"patch_size": [4, 4], "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2], "window_size": [4, 4]},
        WIDE,
        {
            "features.1.1.attn": (1, LAST, "mean"),
            "features.2": (0, LAST, "mean"),
            "features.3.0.mlp.0": (1, LAST, "mean"),
            "avgpool": (0, FIRST, "mean"),
        },
    ),
    "torchvision/efficientnet_b0": (
        {},
        WIDE,
        {
            "features.2.1": (0, FIRST, "mean"),
            "features.2.1.block.0": (1, FIRST, "mean"),
            "features.8": (0, FIRST, "mean"),
        },
    ),
    "torchvision/googlenet": (
        {"init_weights": False, "aux_logits": False},
        WIDE,
        {"conv2": (0, FIRST, "mean"), "inception3a.branch1": (1, FIRST, "mean"), "inception3a": (0, FIRST, "mean")},
    ),
    "torchvision/inception_v3": (
        {"init_weights": False, "aux_logits": False},
        (96, 128),
        {"Conv2d_1a_3x3": (0, FIRST, "mean"), "Mixed_5b.branch1x1": (1, FIRST, "mean"), "Mixed_7a": (0, FIRST, "mean")},
    ),
    "torchvision/ConvNeXt": (
        {"block_setting": [CNBlockConfig(8, 12, 1), CNBlockConfig(12, 16, 1), CNBlockConfig(16, None, 1)]},
        WIDE,
        {"features.0": (0, FIRST, "mean"), "features.1.0.block.3": (1, LAST, "mean"), "features.3": (0, FIRST, "mean")},
    ),
    "timm/test_resnet": (
        {},
        WIDE,
        {
            "bn1": (0, FIRST, "mean"),  # overwritten in place afterwards
            "layer1.0.act1": (1, FIRST, "mean"),
            "layer2.0.downsample": (1, FIRST, "mean"),
            "layer3": (0, FIRST, "mean"),
            "global_pool": (0, VECTOR, "flatten"),
        },
    ),
    "timm/test_vit": (
        {"img_size": (64, 96)},
        WIDE,
        {
            "patch_embed": (0, LAST, "mean"),
            "blocks.2.attn": (1, tokens(1), "cls"),
            "blocks.3": (0, tokens(1), "mean"),
            "norm": (0, tokens(1), "cls"),
            "fc_norm": (0, VECTOR, "flatten"),
        },
    ),
    "timm/vit_small_patch14_reg4_dinov2": (
        VIT | {"img_size": (28, 42)},
        (28, 42),
        {
            "patch_embed": (0, tokens(), "mean"),  # the class token and four registers come later
            "blocks.0.ls1": (1, tokens(5), "mean"),
            "blocks.0": (0, tokens(5), "token:4"),
            "norm": (0, tokens(5), "cls"),
        },
    ),
    "timm/deit_tiny_distilled_patch16_224": (
        VIT | {"img_size": (32, 48)},
        (32, 48),
        {
            "patch_embed.norm": (0, tokens(), "mean"),
            "blocks.0": (0, tokens(2), "mean"),
            "blocks.1.mlp.fc1": (1, tokens(2), "token:1"),
            "norm": (0, tokens(2), "cls"),
            "head_drop#2": (1, VECTOR, "flatten"),
            "head": (1, VECTOR, "flatten"),  # the logits are the mean of two heads
            "head_dist": (1, VECTOR, "flatten"),
        },
    ),
    "timm/deit3_small_patch16_224": (
        VIT | {"img_size": (32, 48)},
        (32, 48),
        {"blocks.0": (0, tokens(1), "mean"), "blocks.1.ls2": (1, tokens(1), "cls"), "norm": (0, tokens(1), "cls")},
    ),
    "timm/cait_xxs24_224": (
        VIT | {"img_size": (32, 48)},
        (32, 48),
        {"blocks.1": (0, tokens(), "mean"), "blocks.0.attn": (1, tokens(), "mean"), "norm": (0, tokens(1), "cls")},
    ),
    "timm/swin_tiny_patch4_window7_224": (
        SWIN | {"img_size": (64, 96)},
        WIDE,
        {
            "layers.0.blocks.0.norm1": (1, LAST, "mean"),
            "layers.0.blocks.1": (0, LAST, "mean"),
            "layers.1.downsample.norm": (0, LAST, "mean"),
            "layers.1.blocks.0.mlp": (1, tokens(), "mean"),
            "head.global_pool": (0, VECTOR, "flatten"),
        },
    ),
    "timm/convnext_atto": (
        {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)},
        WIDE,
        {
            "stem": (0, FIRST, "mean"),
            "stages.1.blocks.0.conv_dw": (1, FIRST, "mean"),
            "stages.2": (0, FIRST, "mean"),
            "head.norm": (0, FIRST, "mean"),
        },
    ),
    "timm/efficientnet_lite0": (
        {},
        WIDE,
        {
            "conv_stem": (0, FIRST, "mean"),
            "blocks.2.1": (0, FIRST, "mean"),
            "blocks.2.1.bn2.act": (1, FIRST, "mean"),
            "bn2": (0, FIRST, "mean"),
        },
    ),
    "timm/mobilenetv3_small_050": (
        {},
        WIDE,
        {
            "blocks.1.1": (0, FIRST, "mean"),
            "blocks.3.0.se.gate": (1, FIRST, "mean"),
            "global_pool": (0, FIRST, "mean"),
            "classifier": (0, VECTOR, "flatten"),
        },
    ),
    "timm/densenet121": (
        {"block_config": (2, 2), "growth_rate": 8},
        WIDE,
        {
            "features.denseblock1.denselayer1": (1, FIRST, "mean"),
            "features.denseblock1": (0, FIRST, "mean"),
            "features.transition1": (0, FIRST, "mean"),
        },
    ),
    "timm/inception_v3": (
        {},
        (96, 128),
        {
            "Conv2d_2b_3x3": (0, FIRST, "mean"),
            "Mixed_5c.branch_pool": (1, FIRST, "mean"),
            "Mixed_6a": (0, FIRST, "mean"),
        },
    ),
    "timm/mlp_mixer": (
        {"img_size": (32, 48), "patch_size": 8, "num_blocks": 2, "embed_dim": 24},
        (32, 48),
        {
            "stem": (0, tokens(), "mean"),
            "blocks.0.drop_path#1": (1, tokens(), "mean"),
            "blocks.1": (0, tokens(), "mean"),
            "head_drop": (0, VECTOR, "flatten"),
        },
    ),
    "timm/maxvit_rmlp_pico_rw_256": (
        {"img_size": 64, "depths": (1, 1), "embed_dim": (32, 64)},
        (64, 64),
        {
            "stem": (0, FIRST, "mean"),
            "stages.0.blocks.0.conv.se": (1, FIRST, "mean"),
            "stages.0.blocks.0.attn_block": (0, LAST, "mean"),
            "stages.1.blocks.0.attn_grid.mlp": (1, LAST, "mean"),
        },
    ),
    "transformers/ViTForImageClassification": (
        HF,
        (32, 32),
        {
            "vit.embeddings": (0, tokens(1), "mean"),
            "vit.layers.0.mlp": (1, tokens(1), "mean"),
            "vit.layers.1": (0, tokens(1), "cls"),
        },
    ),
    "transformers/DeiTForImageClassificationWithTeacher": (
        HF,
        (32, 32),
        {
            "deit.embeddings.patch_embeddings": (0, tokens(), "mean"),
            "deit.layers.0.attention[0]": (1, tokens(2), "mean"),
            "deit.layers.1.dropout#2": (1, tokens(2), "token:1"),
            "deit[last_hidden_state]": (0, tokens(2), "cls"),
            "cls_classifier": (1, VECTOR, "flatten"),
            "logits": (0, VECTOR, "flatten"),
        },
    ),
    "transformers/Dinov2ForImageClassification": (
        HF,
        (32, 32),
        {
            "dinov2.encoder.layer.0.attention[0]": (1, tokens(1), "mean"),
            "dinov2.encoder.layer.1": (0, tokens(1), "mean"),
            "dinov2[last_hidden_state]": (0, tokens(1), "mean"),
        },
    ),
    "transformers/Dinov2WithRegistersModel": (
        HF,
        (32, 32),
        {
            "network.embeddings.patch_embeddings": (0, tokens(), "mean"),
            "network.embeddings": (0, tokens(5), "mean"),
            "network.encoder.layer.0.mlp": (1, tokens(5), "token:4"),
        },
    ),
    "transformers/CLIPModel": (  # its tower of vision, without classifier
        {"vision_config": HF},
        (32, 32),
        {
            "network.pre_layrnorm": (0, tokens(1), "mean"),
            "network.encoder.layers.0.self_attn[0]": (1, tokens(1), "mean"),
            "network.encoder.layers.1": (0, tokens(1), "cls"),
            "network[pooler_output]": (0, VECTOR, "flatten"),
        },
    ),
    "transformers/SwinForImageClassification": (
        HF_SWIN | {"size": 64},
        (64, 64),
        {
            "swin.embeddings[0]": (0, tokens(), "mean"),
            "swin.encoder.layers.0.blocks.1.mlp": (1, tokens(), "mean"),
            "swin.encoder.layers.1[0]": (0, tokens(), "mean"),
            "swin[pooler_output]": (0, VECTOR, "flatten"),
        },
    ),
    "transformers/ConvNextForImageClassification": (
        {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "image_size": 64, "size": 64},
        WIDE,
        {
            "convnext.encoder.stages.0": (0, FIRST, "mean"),
            "convnext.encoder.stages.1.layers.0.pwconv1": (1, LAST, "mean"),
            "convnext[pooler_output]": (0, VECTOR, "flatten"),
        },
    ),
    "transformers/ResNetForImageClassification": (
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "size": 64},
        WIDE,
        {"resnet.embedder": (0, FIRST, "mean"), "resnet.encoder.stages.1.layers.0.shortcut": (1, FIRST, "mean")},
    ),
}
LONG = [f"{source}/inception_v3" for source in ("torchvision", "timm")]
LONG += ["torchvision/googlenet", "torchvision/efficientnet_b0", "timm/efficientnet_lite0"]
SOURCES = {"torchvision": of_torchvision, "timm": of_timm, "transformers": of_transformers}


def built(name, folder):
    """A network of the table, its images x and gx, and what is known of its layers."""
    settings, sides, layers = ARCHITECTURES[name]
    source, _, own = name.partition("/")
    torch.manual_seed(0)
    return awake(SOURCES[source](own, folder, **settings)), images(sides), images(sides, 1), layers


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in LONG else []) for name in ARCHITECTURES]
)
def test_replacing_is_the_network(name, tmp_path):
    network, x, gx, layers = built(name, tmp_path)
    wanted = Cut(network, ["logits"]).logits(gx)
    listed = list_layers(network, x, bypass=False)
    fit = listed.loc[listed["why"] == "", "layer"].tolist()
    most = MOST if sum(one.numel() for one in network.parameters()) < LARGE else FEW
    some, known = fit[:: -(-len(fit) // most)], submodules(network)
    with evaluating(network, gx.device):
        seen = forward(network, gx, [read_layer(layer, known) for layer in some])
        for layer, value in seen.outputs.items():  # what `classify` does where no trace serves
            assert torch.equal(logits_in(forward(network, gx, put={layer: value}).answer), wanted), layer.name
    cut = Cut(network, list(layers), {layer: readout for layer, (_, _, readout) in layers.items()})
    r, own = cut.phi(x), cut.phi(gx)
    for layer, (passed, layout, _) in layers.items():
        there = cut.reading(layer).layout
        assert (there.kind, there.prefix) == layout, layer
        assert torch.equal(cut.classify(layer, own[layer], gx), wanted), layer
        moved = cut.classify(layer, r[layer], gx)
        assert moved.isfinite().all() and not torch.equal(moved, wanted), layer
        bypass = cut.bypass(layer, x)
        assert bypass > 0.01 if passed else bypass <= TRUE_CUT, (layer, bypass)


@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        (
            "timm/swin_tiny_patch4_window7_224",
            "layers.0.blocks.1.attn.proj",
            r"a row an image \(of 3 images \(72, 16, 12\).* nearest .* is layers.0.blocks.1.drop_path1",
        ),
        (
            "timm/maxvit_rmlp_pico_rw_256",
            "stages.0.blocks.0.attn_block.attn.rel_pos.mlp.fc1",  # a table, of as many rows as there are images
            r"a row an image \(of 3 images \(3, 3, 512\), of 2 \(3, 3, 512\)\); the nearest",
        ),
        (
            "timm/test_vit",
            "blocks.1.attn.attn_drop",
            "is not run .* the nearest that can be measured is blocks.1.attn.norm",
        ),
        (
            "transformers/SwinForImageClassification",
            "swin.encoder.layers.0.blocks.0.attention.q_proj",
            r"a row an image \(of 3 images \(48, 16, 12\), of 2 \(32, 16, 12\)\); the nearest",
        ),
        (
            "transformers/ViTForImageClassification",
            "vit.layers",
            "not run .* nearest that can be measured is vit.layers.0",
        ),
        ("transformers/DeiTForImageClassificationWithTeacher", "deit.layers.0.dropout", "runs 2 times .*dropout#1 to"),
        ("transformers/Dinov2ForImageClassification", "dinov2", r"\(name dinov2\[last_hidden_state\] \(3, 17, 24\)"),
    ],
)
def test_what_cannot_be_measured_names_what_can(name, layer, said, tmp_path):
    network, x, _, _ = built(name, tmp_path)
    with pytest.raises(UserError, match=said):
        Cut(network, [layer]).phi(x)


def test_a_head_of_zeros_is_refused_and_what_is_before_it_is_not():
    settings, sides, _ = ARCHITECTURES["torchvision/VisionTransformer"]
    torch.manual_seed(0)
    network = of_torchvision("VisionTransformer", None, **settings)
    assert not network.heads.head.weight.any()
    cut, x = Cut(network, ["encoder.ln"]), images(sides)
    assert cut.phi(x)["encoder.ln"].std() > 0.1
    for asked in (cut.logits, lambda x: cut.bypass("encoder.ln", x)):
        with pytest.raises(UserError, match="same logits for 3 different images .a head of zeros"):
            asked(x)


def test_outputs_that_are_overwritten_later_are_told(tmp_path):
    network, x, _, _ = built("timm/test_resnet", tmp_path)
    listed = list_layers(network, x, "layer1.0.*", bypass=False).set_index("layer")["overwritten"]
    assert [name for name, later in listed.items() if later] == [
        f"layer1.0.{one}" for one in ("bn1", "drop_block", "bn2")
    ]
