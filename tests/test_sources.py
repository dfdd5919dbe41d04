"""Networks of libraries: their preprocessing against the library's own pipeline, and their weights."""

import pickle
import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from invariance import load, measure_model, wrap
from invariance.data.decode import decode_as
from invariance.errors import UserError
from invariance.models.recipe import Normalise, Resize
from invariance.training.loading import load_model

TINY = "torchvision/squeezenet1_1"
HALVES = ([0.5] * 3, [0.25] * 3)
CHINA, FLOWER = (np.asarray(one) for one in load_sample_images().images)
PHOTOS = {
    "landscape": CHINA,
    "odd": CHINA[5:-4, 11:-6],
    "portrait": np.ascontiguousarray(FLOWER[:, 200:421]),
    "small": np.ascontiguousarray(CHINA[100:190, 300:433]),
}


def library(name):
    return pytest.importorskip(name, reason=f"{name} is not installed")


@pytest.fixture(params=PHOTOS)
def photo(request):
    return np.ascontiguousarray(PHOTOS[request.param])


def ours(model, photo):
    """A photograph as a model takes it, by the way of a user's files."""
    pixels = decode_as(photo, model.resize, "rgb")
    assert pixels.dtype == np.uint8 and pixels.shape[1:] == (model.size, model.size)
    return model.prepare(torch.from_numpy(pixels)[None])[0]


def state(name=TINY, seed=3):
    return load_model(name, weights="random", seed=seed).module.state_dict()


# preprocessing


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "resnet18"])
def test_torchvision_is_preprocessed_as_by_its_entry(name, photo):
    model = load_model(f"torchvision/{name}", weights="random")
    entry = torchvision.models.get_model_weights(name).DEFAULT
    wanted = entry.transforms()(Image.fromarray(photo))
    torch.testing.assert_close(ours(model, photo), wanted, rtol=0, atol=1e-5)
    assert model.classes == entry.meta["categories"] and model.class_count == 1000 and model.name == name
    assert f"as {entry}" in model.recipe and "antialiased" in model.recipe and not model.module.training


def test_an_entry_of_torchvisions_weights_has_its_own_recipe():
    first, second = (load_model(f"torchvision/mobilenet_v2.IMAGENET1K_V{k}", weights="random") for k in (1, 2))
    assert (first.resize, second.resize) == (Resize("shorter", 256, 224), Resize("shorter", 232, 224))
    assert "size 224" not in first.recipe and first.recipe.startswith(
        "shorter side to 256 (bilinear, antialiased), centre"
    )


CONFIGS = {
    "usual": {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center"},
    "odd": {"input_size": (3, 225, 225), "interpolation": "bilinear", "crop_pct": 0.9, "crop_mode": "center"},
    "whole": {"input_size": (3, 160, 160), "interpolation": "lanczos", "crop_pct": 1.0, "crop_mode": "center"},
    "squash": {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "squash"},
    "border": {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "border"},
    "border, whole": {"input_size": (3, 99, 99), "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "border"},
}


@pytest.mark.parametrize("config", CONFIGS)
def test_timm_is_preprocessed_as_by_its_transform(config, photo):
    data = library("timm.data")
    from invariance.models.sources.timm import recipe_of

    config = {**CONFIGS[config], "mean": (0.48, 0.45, 0.4), "std": (0.23, 0.22, 0.25)}
    wanted = data.create_transform(**config, is_training=False)(Image.fromarray(photo))
    resize, normalise = recipe_of(config, "any")
    got = normalise(torch.from_numpy(decode_as(photo, resize, "rgb")).float()[None])[0]
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet.r160_in1k"])
def test_a_model_of_timm_has_the_recipe_of_its_tag(name, photo):
    timm = library("timm")
    model = load_model(f"timm/{name}", weights="random")
    config = timm.data.resolve_model_data_config(timm.create_model(name))
    wanted = timm.data.create_transform(**config, is_training=False)(Image.fromarray(photo))
    torch.testing.assert_close(ours(model, photo), wanted, rtol=0, atol=1e-5)
    assert model.size == config["input_size"][1] and model.class_count == 1000 and model.name == name
    assert model.classes[0].startswith("tench") and str(list(config["mean"])) in model.recipe


def test_another_size_keeps_the_part_of_the_picture_and_is_refused_where_the_network_does_not_take_it():
    model = load_model(TINY, weights="random", size=112, preprocess=HALVES, classes=[str(k) for k in range(1000)])
    assert (model.size, model.resize) == (112, Resize("shorter", 128, 112)) and model.classes[7] == "7"
    assert "/ [0.25, 0.25, 0.25]" in model.recipe and model.prepare(torch.zeros(1, 3, 4, 4)).unique().tolist() == [-2.0]
    with pytest.raises(UserError, match="vit_b_32 does not take images of 64 × 64 pixels"):
        load_model("torchvision/vit_b_32", weights="random", size=64)
    with pytest.raises(UserError, match="classes= holds 2 names for 1000 classes"):
        load_model(TINY, weights="random", classes=["a", "b"])


def test_timm_brings_given_weights_to_another_size():
    library("timm")
    given = state("timm/test_vit")
    model = load_model("timm/test_vit", weights=given, size=96)
    assert model.size == 96 and model.count_logits(torch.zeros(1, 3, 96, 96)) == 1000
    assert torch.equal(model.module.state_dict()["head.weight"], given["head.weight"])
    assert model.module.pos_embed.shape != given["pos_embed"].shape


PROCESSORS = {
    "ViTImageProcessor": {"size": {"height": 224, "width": 224}},
    "BitImageProcessor": {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
    "CLIPImageProcessor": {"size": {"shortest_edge": 225}, "crop_size": {"height": 224, "width": 224}},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
    "ConvNextImageProcessor, warped": {"size": {"shortest_edge": 384}, "crop_pct": 0.875},
    "EfficientNetImageProcessor": {"size": {"height": 96, "width": 96}, "rescale_offset": True},
    "LevitImageProcessor": {"size": {"shortest_edge": 224}},
    "MobileViTImageProcessor": {"size": {"shortest_edge": 288}, "crop_size": {"height": 256, "width": 256}},
    "MobileNetV2ImageProcessor": {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
    "ViTImageProcessor, not normalised": {"size": {"height": 99, "width": 99}, "do_normalize": False, "resample": 3},
}


def save_vit(folder, **settings):
    """A tiny ViT's folder, as the Hub has them, with weights if a seed is given."""
    transformers = library("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=32, patch_size=8, **small, num_labels=5, **settings)
    torch.manual_seed(0)
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return network


@pytest.mark.parametrize("given", PROCESSORS)
def test_hugging_faces_processors_are_taken_apart(given, tmp_path, photo):
    transformers = library("transformers")
    save_vit(tmp_path)
    processor = getattr(transformers, given.partition(",")[0])(**PROCESSORS[given])
    processor.save_pretrained(tmp_path)
    model = load_model(f"hugging_face/{tmp_path}")
    wanted = torch.as_tensor(processor(images=Image.fromarray(photo), return_tensors="pt")["pixel_values"])[0]
    level = (model.prepare(torch.ones(1, 3, 1, 1)) - model.prepare(torch.zeros(1, 3, 1, 1))).abs().mean()
    assert float((ours(model, photo) - wanted).abs().mean()) < 0.5 * float(level)


def test_a_model_of_hugging_face_is_that_of_the_folder(tmp_path):
    network = save_vit(tmp_path / "vit", id2label={k: f"class {k}" for k in range(5)})
    model = load_model(f"hugging_face/{tmp_path / 'vit'}")
    assert (model.name, model.size, model.classes) == ("vit", 32, [f"class {k}" for k in range(5)])
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        wanted = network((x / 255 - 0.5) / 0.5).logits
        torch.testing.assert_close(model.module(model.prepare(x)).logits, wanted)
    assert model.count_logits(x) == 5 and model.recipe == (
        "32 × 32 (bilinear, antialiased); (x / 255 − [0.5, 0.5, 0.5]) / [0.5, 0.5, 0.5]"
    )
    file = tmp_path / "vit" / "model.safetensors"
    again = load_model(f"hugging_face/{tmp_path / 'vit'}", weights=file)
    assert again.weights == model.weights
    drawn = [load_model(f"hugging_face/{tmp_path / 'vit'}", weights="random", seed=k).weights for k in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and model.weights not in drawn


def test_a_network_of_hugging_face_without_classifier_gives_its_features(tmp_path):
    transformers = library("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = {**small, "image_size": 32, "patch_size": 8, "projection_dim": 4}
    config = transformers.CLIPConfig(text_config={**small, "vocab_size": 50}, vision_config=vision, projection_dim=4)
    torch.manual_seed(0)
    network = transformers.CLIPModel(config).eval()
    network.save_pretrained(tmp_path)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(tmp_path)
    model = load_model(f"hugging_face/{tmp_path}")
    assert model.class_count == 0 and model.classes is None
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        wanted = network.vision_model(model.prepare(x)).pooler_output
        torch.testing.assert_close(model.module(model.prepare(x)), wanted)


@pytest.mark.parametrize("kind", ["vit without pooler", "resnet"])
def test_features_are_what_is_pooled_or_the_first_token(kind, tmp_path):
    transformers = library("transformers")
    torch.manual_seed(0)
    if kind == "resnet":
        config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
        network = transformers.ResNetModel(config).eval()
    else:
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = transformers.ViTConfig(image_size=32, patch_size=8, **small)
        network = transformers.ViTModel(config, add_pooling_layer=False).eval()
    network.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model = load_model(f"hugging_face/{tmp_path}")
    x = model.prepare(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    with torch.no_grad():
        answer = network(x)
        wanted = answer.pooler_output.flatten(1) if kind == "resnet" else answer.last_hidden_state[:, 0]
        torch.testing.assert_close(model.module(x), wanted)


def test_a_checkpoint_without_head_or_a_processor_that_does_more_is_refused(tmp_path):
    transformers = library("transformers")
    save_vit(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = library("safetensors.torch").load_file(path)
    library("safetensors.torch").save_file(
        {name: one for name, one in tensors.items() if "classifier" not in name}, path, {"format": "pt"}
    )
    with pytest.raises(UserError, match=r"2 of its weights are not in the checkpoint .*first: classifier.bias"):
        load_model(f"hugging_face/{tmp_path}")
    transformers.ViTImageProcessor(size={"height": 32, "width": 40}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does more than resizing to a square"):
        load_model(f"hugging_face/{tmp_path}", weights="random")
    own = load_model(f"hugging_face/{tmp_path}", HALVES, weights="random", size=32)
    assert own.resize is None and own.recipe.startswith("size 32; (x / 255")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="its image processor cannot be had .*give preprocess= and size="):
        load_model(f"hugging_face/{tmp_path}", weights="random")


# weights


def test_random_weights_are_of_their_seed_and_leave_the_global_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (load_model(TINY, weights="random", seed=seed) for seed in (1, 1, 2))
    assert one.weights == same.weights != other.weights
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert load_model(TINY, weights="random", seed=1).weights == one.weights
    library("timm")
    drawn = [load_model("timm/test_vit", weights="random", seed=seed).weights for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "module", "old", "safetensors", "given", "half"])
def test_weights_from_a_file(form, tmp_path):
    given, path = state(), tmp_path / "weights.any"
    wanted = load_model(TINY, weights="random", seed=3).weights
    if form == "safetensors":
        library("safetensors.torch").save_file(given, path)
    elif form == "module":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": one for name, one in given.items()}}, path)
    elif form == "half":
        given = {name: one.half() for name, one in given.items()}
        wanted = load_model(TINY, weights={name: one.float() for name, one in given.items()}).weights
        torch.save(given, path)
    else:
        wrapped = {form: given} if form in ("state_dict", "model") else given
        torch.save(wrapped, path, _use_new_zipfile_serialization=form != "old")
    model = load_model(TINY, weights=given if form == "given" else path)
    assert model.weights == wanted and all(one.dtype == torch.float32 for one in model.module.parameters())


class Code:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_weights_that_do_not_serve_are_one_line(tmp_path, capsys):
    path, given = tmp_path / "w.pth", state()

    def told(match, **settings):
        with pytest.raises(UserError, match=match) as error:
            load_model(TINY, **{"weights": path, **settings})
        assert "\n" not in str(error.value)

    told("w.pth' does not exist")
    told("is a folder; name the file in it", weights=tmp_path)
    for old in (True, False):
        torch.save({"state_dict": given, "extra": Code()}, path, _use_new_zipfile_serialization=old)
        told(r"holds code \(.*print\), which is never run")
    path.write_bytes(pickle.dumps(Code()))
    told("holds code|is no file of weights")
    assert "never be printed" not in capsys.readouterr().out
    for old in (True, False):
        torch.save(given, path, _use_new_zipfile_serialization=old)
        path.write_bytes(path.read_bytes()[:100_000])
        told("is no file of weights, or is cut off")
    path.write_bytes(b"hello")
    told("is no file of weights, or is cut off")
    path.write_bytes(b"")
    told("is no file of weights, or is cut off")
    torch.save({"epoch": 3, "net": given}, path)
    told(r"is no state dict: 'epoch' is a int \(it holds epoch, net")
    torch.save([1, 2], path)
    told("holds a list and no state dict")
    torch.save(state("torchvision/shufflenet_v2_x0_5"), path)
    told(
        r"is of another architecture: of 52 names 52 missing \(first: features.0.weight\), \d+ unexpected \(first: conv"
    )
    name = "classifier.1.weight"
    torch.save({**given, name: torch.zeros(7, 512, 1, 1)}, path)
    told(r"of 52 names 1 of another shape \(first: classifier.1.weight \(7, 512, 1, 1\) for \(1000, 512, 1, 1\)\)")
    told("weights=3: give a file", weights=3)
    told("weights_by='position' is of weights that are given", weights="random", weights_by="position")
    told("weights_by='order'", weights_by="order")
    told("seed=-1", weights="random", seed=-1)


def test_a_damaged_safetensors_file_is_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    library("safetensors.torch").save_file(state(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="is a safetensors file that is cut off or damaged"):
        load_model(TINY, weights=path)


def test_weights_by_position_are_asked_for(tmp_path):
    given = state()
    renamed = {f"layer{place}": one for place, one in enumerate(given.values())}
    with pytest.raises(UserError, match="their shapes fit one after another: .* weights_by='position'"):
        load_model(TINY, weights=renamed)
    wanted = load_model(TINY, weights=given).weights
    assert load_model(TINY, weights=renamed, weights_by="position").weights == wanted
    with pytest.raises(UserError, match="does not fit by position: it holds 51 tensors, the network 52"):
        load_model(TINY, weights=dict(list(renamed.items())[1:]), weights_by="position")
    with pytest.raises(UserError, match=r"position: layer0 is of shape \(64,\), and features.0.weight in its place"):
        load_model(
            TINY, weights={"layer0": torch.zeros(64), **renamed, **{"layer0": torch.zeros(64)}}, weights_by="position"
        )


def test_counters_of_batch_normalisation_may_be_missing():
    given = {name: one for name, one in state("torchvision/shufflenet_v2_x0_5").items() if "num_batches" not in name}
    load_model("torchvision/shufflenet_v2_x0_5", weights=given)
    renamed = {f"layer{place}": one for place, one in enumerate(given.values())}
    load_model("torchvision/shufflenet_v2_x0_5", weights=renamed, weights_by="position")


def test_a_file_of_torchvisions_zoo_is_known_by_its_name(tmp_path):
    path = tmp_path / "mobilenet_v2-b0353104.pth"
    torch.save(state("torchvision/mobilenet_v2"), path)
    assert load_model("torchvision/mobilenet_v2", weights=path).resize.side == 256
    path = path.rename(tmp_path / "mine.pth")
    assert load_model("torchvision/mobilenet_v2", weights=path).resize.side == 232


def test_weights_that_cannot_be_had_are_one_line(monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise URLError("no network\nat all")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(
        UserError, match=r"cannot be had \(URLError: .*no network.*give weights=FILE, or weights='random'"
    ):
        load_model(TINY)
    timm, hub = library("timm"), library("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="model test_vit: its pretrained weights cannot be had .*weights='random'"):
        load_model("timm/test_vit")
    without = next(
        one for one in timm.list_models() if not timm.list_pretrained(f"{one}.*") and not timm.list_pretrained(one)
    )
    with pytest.raises(UserError, match="cannot be had .*No pretrained weights exist"):
        load_model(f"timm/{without}")
    library("transformers")
    with pytest.raises(UserError, match="its config.json cannot be had .*hugging_face/./folder"):
        load_model("hugging_face/nobody/nothing")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision/mobilnet_v2", "no classifier of this name; did you mean 'mobilenet_v2'"),
        ("torchvision/fasterrcnn_resnet50_fpn", "no classifier of this name"),
        ("torchvision/mobilenet_v2.V3", "there are no weights 'V3'; there are IMAGENET1K_V1, IMAGENET1K_V2"),
        ("timm/vit_tiny_patch16_22", "has no such model; did you mean 'vit_tiny_patch16_224'"),
        ("timm/resnet18.none", "there is no tag 'none'; there are resnet18.a1_in1k"),
    ],
)
def test_unknown_names_are_one_line(name, said):
    if name.startswith("timm/"):
        library("timm")
    with pytest.raises(UserError, match=said):
        load_model(name, weights="random")


@pytest.mark.parametrize(("name", "install"), [("timm/resnet18", "timm"), ("hugging_face/a/b", "huggingface")])
def test_a_library_that_is_not_there_is_one_line(name, install, monkeypatch):
    for module in ("timm", "transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"is not installed; pip install 'invariance\[{install}\]'"):
        load_model(name, weights="random")


def test_weights_for_a_function_go_into_its_module(tmp_path, monkeypatch):
    (tmp_path / "a_function_of_a_test.py").write_text(
        "from torch import nn\n\ndef network():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    given = {"1.weight": torch.ones(3, 12), "1.bias": torch.arange(3.0)}
    model = load_model("a_function_of_a_test:network", HALVES, weights=given)
    assert torch.equal(model.module[1].bias, given["1.bias"])
    with pytest.raises(UserError, match="leave weights='random' out"):
        load_model("a_function_of_a_test:network", HALVES, weights="random")
    sys.modules.pop("a_function_of_a_test")


# what a recipe says


def test_a_recipe_is_told_and_scaled():
    resize = Resize("longer", 256, 224, "nearest", fill=(1, 2, 3))
    assert resize.told == "longer side to 256 (nearest), centre 224 × 224 with 1, 2, 3 outside"
    assert resize.scaled(112).told == "longer side to 128 (nearest), centre 112 × 112 with 1, 2, 3 outside"
    assert Resize().told == "not resized" and Resize("both", 9).size == 9 and Resize("shorter", 9).size is None
    with pytest.raises(UserError, match="gives no squares"):
        Resize().scaled(3)
    with pytest.raises(UserError, match="filter='cubic'"):
        Resize("both", 9, None, "cubic")
    assert Normalise(scale=127.5, shift=-1, reversed=True).told == "channels reversed, x / 127.5 − 1"
    x = torch.tensor([0.0, 127.5, 255.0]).reshape(1, 3, 1, 1)
    assert Normalise(scale=127.5, shift=-1, reversed=True)(x).flatten().tolist() == [1, 0, -1]


def test_a_gray_photograph_and_one_that_is_laid_on_a_ground():
    gray = np.ascontiguousarray(CHINA[:20, :30, 0])
    pixels = decode_as(gray, Resize("none", 0, 40, fill=(30, 60, 90)), "gray")
    assert pixels.shape == (1, 40, 40) and np.array_equal(pixels[0, 10:30, 5:35], gray) and pixels[0, 0, 0] == 60
    colour = decode_as(np.ascontiguousarray(CHINA[:20, :30]), Resize("none", 0, 40, fill=(30, 60, 90)), "rgb")
    assert colour[:, 0, 0].tolist() == [30, 60, 90] and np.array_equal(
        colour[:, 10:30, 5:35], CHINA[:20, :30].transpose(2, 0, 1)
    )


def test_results_name_the_library_that_a_network_was_built_with(tmp_path):
    timm = library("timm")
    small = {"preprocess": HALVES, "size": 32, "weights": "random"}
    one = load_model("timm/test_vit", **small)
    assert one.libraries == ["timm"] and wrap(one.module, HALVES).libraries == ["timm"]
    other = wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)), HALVES, name="mine")
    assert other.libraries == []
    x = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8)
    asked = {"transforms": ["mirror"], "layers": ["logits"], "measures": ["agreement"]}
    alone = measure_model(other, x, **asked)
    assert "timm" not in alone.attrs["versions"]
    both = measure_model([other, one], x, keep=tmp_path / "kept", **asked)
    for results in (both, load(tmp_path / "kept")):
        assert results.attrs["versions"] == {**alone.attrs["versions"], "timm": timm.__version__}
