"""Images as a user has them: arrays, tensors, a Dataset, a folder; and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from invariance.data.decode import decode
from invariance.data.given import Images, load_images
from invariance.errors import UserError

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (5, 3, 6, 7), dtype=np.uint8)


def test_whole_numbers_become_bytes_and_fractions_stay():
    for given in (BYTES, torch.from_numpy(BYTES), BYTES.astype(np.float64), BYTES.astype(np.int32)):
        found = load_images(given, labels=[0, 1, 2, 1, 0])
        assert found.images.dtype == np.uint8 and np.array_equal(found.images, BYTES)
        assert found.labels.tolist() == [0, 1, 2, 1, 0] and len(found) == 5 and found.name == "images"
    found = load_images(torch.from_numpy(BYTES) * 0.5)
    assert found.images.dtype == np.float32 and np.array_equal(found.images, BYTES * np.float32(0.5))
    assert load_images(found) is found and found.labels is None


def test_arrays_are_resized_where_a_size_is_given():
    found = load_images(BYTES, size=4).images
    assert np.array_equal(found[2], decode(np.ascontiguousarray(BYTES[2].transpose(1, 2, 0)), 4, "rgb"))
    assert load_images(BYTES[:, :1], size=4).images.shape == (5, 1, 4, 4)
    with pytest.raises(UserError, match="give uint8 images"):
        load_images(BYTES * 0.5, size=4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (BYTES / 255, r"floats of at most 1: they seem to be in \[0, 1\]; multiply them by 255"),
        (BYTES.astype(float) - 128, "hold -128: they seem to be normalised"),
        (np.where(BYTES == 7, np.nan, BYTES), r"not finite \(NaN\)"),
        (BYTES.astype(float) * 2, "hold 510: give uint8"),
        (BYTES.astype(bool), "images of type bool"),
        (BYTES.transpose(0, 2, 3, 1), r"seem to be \(N, H, W, C\): give images.transpose\(0, 3, 1, 2\)"),
        (BYTES[:, :2], r"images of shape \(5, 2, 6, 7\) are not images \(N, C, H, W\) with 1 or 3 channels"),
        (BYTES[0], r"images of shape \(3, 6, 7\)"),
        (BYTES[:0], "there are none"),
        (7, "a int is none"),
        ([], "the Dataset is empty"),
        ([BYTES[0], BYTES[1][:, :4]], "give size="),
        ([(BYTES[0], 1), BYTES[1]], "some items of the Dataset have labels"),
        (["a", "b"], "item 0 of the Dataset is a str"),
        (TensorDataset(torch.from_numpy(BYTES / 255)), r"seem to be in \[0, 1\]"),
    ],
)
def test_what_are_no_images_is_one_line(given, said):
    with pytest.raises(UserError, match=said):
        load_images(given)


@pytest.mark.parametrize("labels", [[0, 1], [0.0, 1, 2, 3, 4], [-1, 0, 0, 0, 0], [[0]] * 5])
def test_labels_that_do_not_fit(labels):
    with pytest.raises(UserError, match=r"labels of type .* for 5 images; give one whole number"):
        load_images(BYTES, labels=labels)


def test_a_dataset_of_pictures_or_tensors():
    pictures = [(Image.fromarray(one.transpose(1, 2, 0)), k % 2) for k, one in enumerate(BYTES)]
    found = load_images(pictures)
    assert np.array_equal(found.images, BYTES) and found.labels.tolist() == [0, 1, 0, 1, 0]
    assert load_images(pictures, size=4, colour="gray").images.shape == (5, 1, 4, 4)
    found = load_images(TensorDataset(torch.from_numpy(BYTES), torch.arange(5)), size=4)
    assert np.array_equal(found.images, load_images(BYTES, size=4).images) and found.labels.tolist() == list(range(5))


def folder(path, names):
    for k, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(BYTES[k % 5].transpose(1, 2, 0)).save(path / name)
    return path


def test_a_folder_of_images_and_one_of_classes(tmp_path):
    flat = load_images(folder(tmp_path / "flat", ["b.png", "a.png"]), size=5)
    assert isinstance(flat, Images) and flat.labels is None and flat.name == "flat"
    assert np.array_equal(flat.images[1], decode(BYTES[0].transpose(1, 2, 0).copy(), 5, "rgb"))
    classes = load_images(str(folder(tmp_path / "classes", ["dog/1.png", "cat/1.png", "cat/2.png"])), size=5)
    assert classes.classes == ["cat", "dog"] and classes.labels.tolist() == [0, 0, 1] and len(classes) == 3


def test_folders_that_do_not_serve(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_images(tmp_path / "none", size=4)
    with pytest.raises(UserError, match="files of any size; give resize=model.resize, or size="):
        load_images(folder(tmp_path / "a", ["1.png"]))
    with pytest.raises(UserError, match=r"holds splits \(test, train\); name one"):
        load_images(folder(tmp_path / "b", ["train/x/1.png", "test/x/1.png"]), size=4)
    with pytest.raises(UserError, match="leave labels= out"):
        load_images(tmp_path / "a", labels=[0], size=4)
    (tmp_path / "c" / "empty").mkdir(parents=True)
    with pytest.raises(UserError, match="empty holds no images"):
        load_images(tmp_path / "c", size=4)
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="d holds no images"):
        load_images(tmp_path / "d", size=4)
    (tmp_path / "a" / "2.png").write_bytes(b"no image at all")
    with pytest.raises(UserError, match=r"2.png is not an image .*; mend or remove it"):
        load_images(tmp_path / "a", size=4)
    for bad in (0, 1.5, True):
        with pytest.raises(UserError, match="size="):
            load_images(BYTES, size=bad)
    with pytest.raises(UserError, match="colour='red'"):
        load_images(BYTES, colour="red")
