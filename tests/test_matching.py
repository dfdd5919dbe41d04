"""Class folders as the classes of a network: by name, as WordNet ids, in their order, or as the user says."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from invariance.data.decode import decode_as
from invariance.data.given import for_network, load_images
from invariance.data.wnids import WNIDS
from invariance.engine.notebook import measure_model
from invariance.errors import UserError
from invariance.models.model import wrap
from invariance.models.recipe import Resize

HALVES = ([0.5] * 3, [0.25] * 3)
RNG = np.random.default_rng(0)


def network(count=1000, classes=None):
    torch.manual_seed(0)
    return wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, count)), HALVES, size=8, classes=classes)


def folder(path, *names, sides=(9, 11)):
    for name in names:
        for place in range(2):
            (path / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(RNG.integers(0, 256, (*sides, 3), dtype=np.uint8)).save(path / name / f"{place}.png")
    return path


def labels(path, network, **settings):
    return for_network(load_images(path, size=8, **settings), network).labels.tolist()[::2]


def test_the_list_of_imagenet_is_in_its_usual_order():
    assert len(set(WNIDS)) == len(WNIDS) == 1000 and list(WNIDS) == sorted(WNIDS)
    known = {"n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491, "n03028079": 497, "n03394916": 566}
    known |= {"n03417042": 569, "n03425413": 571, "n03445777": 574, "n03888257": 701, "n15075141": 999}
    assert {wnid: WNIDS.index(wnid) for wnid in known} == known


def test_folders_are_the_networks_classes_by_name_as_wordnet_ids_or_in_their_order(tmp_path):
    ids = folder(tmp_path / "ids", "n02102040", "n03888257", "n01440764")
    assert labels(ids, network()) == [0, 217, 701]
    assert labels(ids, network(1001, ["background", *map(str, range(1000))])) == [1, 218, 702]
    assert labels(ids, network(4, ["n03888257", "x", "n01440764", "n02102040"])) == [2, 3, 0]
    assert labels(ids, network(3)) == [0, 1, 2]
    animals = folder(tmp_path / "animals", "dog", "cat")
    assert labels(animals, network(3, ["dog", "ape", "cat"])) == [2, 0]
    assert labels(animals, network(2, ["poodle", "tabby"])) == [0, 1]


@pytest.mark.parametrize(
    ("count", "names", "folders"),
    [
        (1000, None, ["cat", "dog"]),
        (1001, None, ["n01440764", "n02102040"]),
        (1000, None, ["n01440764", "n00000001"]),
        (10, None, ["n01440764", "n02102040"]),
        (3, ["cat", "dog", "dog"], ["cat", "dog"]),
    ],
)
def test_what_cannot_be_told_is_said_and_not_guessed(count, names, folders, tmp_path):
    path = folder(tmp_path, *folders)
    images = load_images(path, size=8)
    said = rf"which of the network's {count:,} classes {folders[0] if 'n0' not in folders[1] or count != 1000 else ''}"
    with pytest.raises(UserError, match=rf"{said}.*give load_images\(…, classes=\{{'.*labels='none'"):
        for_network(images, network(count, names))
    with pytest.raises(UserError, match="is not known"):
        measure_model(network(count, names), path)
    assert load_images(path, labels="none", size=8).labels is None
    assert load_images(images, labels="none").classes is None


def test_the_user_says_which_classes_folders_are(tmp_path):
    path, names = folder(tmp_path, "cat", "dog"), [*map(str, range(998)), "twice", "twice"]
    assert labels(path, network(), classes=[281, 207]) == [281, 207]
    assert labels(path, network(1000, names), classes={"dog": "207", "cat": np.int64(3)}) == [3, 207]
    synonyms = ["tench, Tinca tinca", "crane", "crane, bird", "wading bird, crane"]
    assert labels(path, network(4, synonyms), classes=["Tinca tinca", "crane"]) == [0, 1]
    for classes, said in [
        ([1], r"classes= holds 1 for 2 classes: cat, dog"),
        ({"cat": 1}, "'dog' is missing"),
        ({"cat": 1, "dgo": 2, "dog": 3}, "'dgo' is no class of the images; did you mean 'dog'"),
        ([1.5, 2], "1.5 is neither a number nor a name"),
        ("cat", "classes='cat': give a list"),
    ]:
        with pytest.raises(UserError, match=said):
            load_images(path, size=8, classes=classes)
    for classes, said in [
        ([0, 1000], "1000 of a network with 1000 classes; they go from 0 to 999"),
        ([0, "20a"], "'20a' is no class of the network; did you mean"),
        ([0, "twice"], "'twice' is the name of 2 of the network's classes; give its number"),
    ]:
        with pytest.raises(UserError, match=said):
            labels(path, network(1000, names), classes=classes)
    with pytest.raises(UserError, match="names of the network's classes are not known; give numbers"):
        labels(path, network(), classes=["a", "b"])
    with pytest.raises(UserError, match="classes= are of class folders"):
        load_images(np.zeros((2, 3, 8, 8), np.uint8), classes=[1])


def test_a_network_without_classifier_takes_no_labels(tmp_path):
    path, model = folder(tmp_path, "cat", "dog"), network(5)
    model.class_count = 0
    with pytest.raises(UserError, match="has no classifier; give .*labels='none'"):
        labels(path, model)


class Labelled(list):
    classes = ["n02102040", "n01440764"]


def test_the_classes_of_a_dataset_are_the_networks_likewise():
    picture = Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    given = load_images(Labelled([(picture, 0), (picture, 1)]))
    assert for_network(given, network()).labels.tolist() == [217, 0]
    numbers = load_images([(picture, 5), (picture, 1)])
    assert for_network(numbers, network()).labels.tolist() == [5, 1]
    beyond = load_images(Labelled([(picture, 5), (picture, 1)]))
    assert for_network(beyond, network()).labels.tolist() == [5, 1]


def test_files_are_resized_by_the_networks_recipe(tmp_path, capsys):
    path = folder(tmp_path, "n02102040", "n01440764", sides=(21, 34))
    model = network()
    model.resize = Resize("shorter", 10, 8, "bicubic")
    first = np.asarray(Image.open(path / "n01440764" / "0.png"))
    wanted = np.asarray(Image.fromarray(first).resize((16, 10), Image.Resampling.BICUBIC))[1:9, 4:12]
    got = load_images(path, resize=model.resize).images
    assert np.array_equal(got[0], wanted.transpose(2, 0, 1)) and got.shape == (4, 3, 8, 8)
    by_hand = measure_model(model, got, labels=[0, 0, 217, 217], transforms="mirror", layers=["1"])
    by_folder = measure_model(model, path, transforms="mirror", layers=["1"])
    assert by_folder["score"].tolist() == by_hand["score"].tolist() and "error_rate" in set(by_folder["metric"])
    unlabelled = measure_model(model, path, "none", transforms="mirror", layers=["1"])
    assert "error_rate" not in set(unlabelled["metric"])
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("about ")]
    assert "4 images taken at their own size, at 1" in lines[0] and "4 images, at 1" in lines[1]
    with pytest.raises(
        UserError, match=r"9 × 7 pixels, and Sequential .* 8 × 8; give .*resize=model.resize.scaled\(8\)"
    ):
        measure_model(model, np.full((2, 3, 9, 7), 9, np.uint8), transforms="mirror", layers=["1"])
    fit = folder(tmp_path.with_name("to_fit_on"), "n01440764")
    fitted = measure_model(model, path, fit=fit, transforms="mirror", layers=["1"])
    assert set(fitted["map"]) == {"identity", "residual"}


def test_a_family_that_cuts_out_of_larger_images_gets_them_by_the_recipe(tmp_path):
    path, model = folder(tmp_path, "n02102040", "n01440764", sides=(40, 50)), network()
    model.resize = Resize("shorter", 10, 8)
    from invariance.transforms.crop import Crop

    results = measure_model(model, path, transforms={"crop": Crop(range=300, corners=True)}, layers=["1"])
    assert len(results)


def test_files_at_their_own_size(tmp_path):
    path = folder(tmp_path / "same", "a", "b")
    images = load_images(path, resize="none")
    assert images.images.shape == (4, 3, 9, 11)
    assert np.array_equal(images.images[1], np.asarray(Image.open(path / "a" / "1.png")).transpose(2, 0, 1))
    folder(path, "c", sides=(9, 12))
    with pytest.raises(UserError, match=r"0.png is 9 × 12 pixels and .*0.png 9 × 11; give resize=model.resize"):
        load_images(path, resize="none")
    with pytest.raises(UserError, match="give one of them"):
        load_images(path, size=8, resize="none")
    with pytest.raises(UserError, match="resize='warp'; give model.resize, 'none', or size"):
        load_images(path, resize="warp")
    picture = Image.open(path / "a" / "1.png")
    assert load_images([picture], resize=Resize("both", 5)).images.shape == (1, 3, 5, 5)
    array = np.asarray(picture).transpose(2, 0, 1)
    assert load_images([array], resize=Resize("both", 5)).images.shape == (1, 3, 9, 11)


def test_a_photograph_is_turned_before_it_is_cropped(tmp_path):
    upright = RNG.integers(0, 256, (21, 34, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "turned.png", exif=exif)
    resize = Resize("shorter", 10, 7, "bicubic")
    got, wanted = decode_as((tmp_path / "turned.png").read_bytes(), resize, "rgb"), decode_as(upright, resize, "rgb")
    assert np.array_equal(got, wanted)


def test_what_load_images_gave_has_its_own_labels():
    images = load_images(np.zeros((2, 3, 8, 8), np.uint8) + 9)
    with pytest.raises(UserError, match="has its own labels; leave labels= out"):
        load_images(images, labels=[0, 1])
