"""ILSVRC-2012 as it is downloaded (Sec. 5.5)."""

import re
from collections.abc import Collection
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np

from invariance.data.archives import open_tree
from invariance.data.left_out import HIDDEN, UNEXPECTED, LeftOut
from invariance.data.magic import is_image
from invariance.data.sources.base import Listing, Splits, file_hash
from invariance.data.sources.devkit import META, TRUTH, Devkit
from invariance.data.sources.official import Official
from invariance.data.sources.trees import FolderTree, Stamp, Tree
from invariance.errors import UserError


class ILSVRC(Official):
    """ILSVRC-2012 for classification: 1,281,167 training images and 50,000 for validation, of 1,000 classes (wnids).

    From the three archives as downloaded, without unpacking them, or extracted: `train/<wnid>/*` (or
    ILSVRC2012_img_train/) and `val/` (or ILSVRC2012_img_val/), flat with the devkit beside it or in wnid folders.
    Classes are the wnids in alphabetical order. Where train holds some of the classes only, val keeps to those.
    """

    name = "ilsvrc"
    _what = "the folder that holds ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and the devkit, or train/ and val/"
    MD5 = {
        "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
        "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
        "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
    }
    PNG = "n02105855_2933.JPEG"
    CMYK = (
        "n01739381_1309 n02077923_14822 n02447366_23489 n02492035_15739 n02747177_10752 n03018349_4028 n03062245_4620 "
        "n03347037_9675 n03467068_12171 n03529860_11437 n03544143_17228 n03633091_5218 n03710637_5125 n03961711_5286 "
        "n04033995_2932 n04258138_17003 n04264628_27969 n04336792_7448 n04371774_5854 n04596742_4225 n07583066_647 "
        "n13037406_4650"
    ).split()
    """Training images in four colours (list: github.com/cytsai/ilsvrc-cmyk-image-list); `PNG` is a PNG."""
    TRAINING, VALIDATION = 1_281_167, 50_000
    _lists = (META, TRUTH)

    def splits(self, progress: bool = False) -> Splits:
        """The classes, train and val.

        Raises:
            UserError: if a part is absent, damaged, of another MD5, or not what it should be.
        """
        if self.verify:
            for name, known in self.MD5.items():
                if (path := self.root / name).is_file() and (found := file_hash(path, "md5", progress)) != known:
                    raise UserError(
                        f"{path} has MD5 {found}, not {known}: download it again, or give data.verify=false to take it "
                        "as it is"
                    )
        return super().splits(progress)

    def _trees(self) -> list[Tree]:
        return [self._train, self._val, *([] if self._devkit is None else [self._devkit.tree])]

    @cached_property
    def _train(self) -> Tree:
        path = self._part("training images", "ILSVRC2012_img_train.tar", "ILSVRC2012_img_train", "train")
        if path is None:
            raise UserError(f"{self.root} holds no training images; {self._what} is expected, data.root being its top")
        return open_tree(path, nested=True)

    @cached_property
    def _val(self) -> Tree:
        path = self._part("validation images", "ILSVRC2012_img_val.tar", "ILSVRC2012_img_val", "val")
        if path is None:
            raise UserError(f"{self.root} holds no validation images; add ILSVRC2012_img_val.tar or val/")
        return open_tree(path)

    @cached_property
    def _devkit(self) -> Devkit | None:
        path = self._part("devkit", "ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12")
        return None if path is None else Devkit(open_tree(path))

    @cached_property
    def _splits(self) -> Splits:
        left_out = LeftOut()
        classes, train, ignored = self._training(left_out)
        remarks, held = [], self._val.inside("")
        folders = self._val.folders()
        flat = [name for name in held.files if is_image(name)]
        if folders and flat:
            raise UserError(
                f"{self._val.path} mixes images ({flat[0]}) and folders ({folders[0]}); validation images lie flat, "
                "with the devkit, or in wnid folders"
            )
        val, left = self._in_folders(classes, folders, left_out) if folders else self._flat(classes, flat)
        _leave(self._val, "", flat, left_out)
        left_out.add_all((_path_of(self._val, name) for name in left), "of classes that train does not hold")
        self._leave_beside(left_out)
        if known := len(self._known()):
            if len(classes) < known:
                remarks.append(f"train holds {len(classes):,} of {known:,} classes")
            elif len(train) < self.TRAINING:
                remarks.append(f"train holds {len(train):,} images of {self.TRAINING:,}")
        if len(classes) == known and len(val) < self.VALIDATION:
            remarks.append(f"validation holds {len(val):,} images of {self.VALIDATION:,}")
        if left:
            remarks.append(f"{len(left):,} validation images of classes that train does not hold are left out")
        names = {PurePosixPath(name).name for name in train.names}
        odd = len(names & {self.PNG, *(f"{name}.JPEG" for name in self.CMYK)})
        if odd:
            remarks.append(f"{odd} training images are PNG or CMYK though named .JPEG; they are decoded all the same")
        return Splits(classes, {"train": train, "val": val}, ignored + left, remarks, left_out=left_out)

    def _training(self, left: LeftOut) -> tuple[list[str], Listing, list[str]]:
        tree, known = self._train, self._known()
        classes = tree.folders()
        packed = [name for name in tree.inside("").files if name.endswith(".tar")]
        if packed and classes:
            raise UserError(
                f"{tree.path} mixes folders ({classes[0]}) and archives that are still packed ({packed[0]}); extract "
                "them all, or use ILSVRC2012_img_train.tar as it is"
            )
        if len(classes) < 2:
            raise UserError(f"{tree.path} holds {len(classes)} class folders; two or more <wnid>/ are expected")
        for name in classes:
            if not re.fullmatch(r"n\d{8}", name) or (known and name not in known):
                raise UserError(f"{tree.path} holds {name!r}, which is no class (wnid) of ILSVRC-2012; take it away")
        names: list[str] = []
        labels: list[int] = []
        stamps: list[Stamp] = []
        ignored: list[str] = []
        for label, wnid in enumerate(classes):
            inside = tree.inside(wnid)
            images = {file: stamp for file, stamp in inside.files.items() if is_image(file)}
            if not images:
                raise UserError(f"class {wnid} is empty: {tree.where(wnid)} holds no images")
            names += [f"{wnid}/{file}" for file in images]
            stamps += images.values()
            labels += [label] * len(images)
            ignored += [f"{wnid}/{file}" for file in (*inside.files, *inside.others) if file not in images]
            _leave(tree, wnid, images, left)
        _leave(tree, "", (), left)
        return classes, self._listing(tree, names, labels, stamps), ignored

    def _listing(self, tree: Tree, names: list[str], labels: list[int], stamps: list[Stamp]) -> Listing:
        """Images of one part; in folders their names begin with the part's own, so that they are unique."""
        prefix = f"{tree.path.name}/" if isinstance(tree, FolderTree) else ""
        listed = [prefix + name for name in names]
        archive = tree if tree.sequential else None
        return Listing(
            listed, np.array(labels, np.int64), lambda i: tree.read(names[i]), stamps if prefix else None, archive
        )

    def _in_folders(self, classes: list[str], folders: list[str], left_out: LeftOut) -> tuple[Listing, list[str]]:
        known, tree = {*self._known(), *classes}, self._val
        for name in folders:
            if name not in known:
                raise UserError(f"{tree.path} holds the folder {name!r}, which is no class (wnid) of train")
        for name in classes:
            if name not in folders:
                raise UserError(f"class {name} is in train but not in {tree.path}; add it")
        names: list[str] = []
        labels: list[int] = []
        stamps: list[Stamp] = []
        left: list[str] = []
        for wnid in folders:
            images = {file: stamp for file, stamp in tree.inside(wnid).files.items() if is_image(file)}
            _leave(tree, wnid, images, left_out)
            if wnid not in classes:
                left += [f"{wnid}/{file}" for file in images]
                continue
            names += [f"{wnid}/{file}" for file in images]
            stamps += images.values()
            labels += [classes.index(wnid)] * len(images)
        return self._listing(tree, names, labels, stamps), left

    def _flat(self, classes: list[str], flat: list[str]) -> tuple[Listing, list[str]]:
        tree, wnids = self._val, self._ground_truth()
        places = {wnid: label for label, wnid in enumerate(classes)}
        stamped = tree.inside("").files
        names, labels, left = [], [], []
        for name in flat:
            matched = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", name)
            if matched is None:
                raise UserError(f"{tree.path} holds {name!r}; validation images are named ILSVRC2012_val_00000001.JPEG")
            number = int(matched[1])
            if not 1 <= number <= len(wnids):
                raise UserError(
                    f"{name} has no line in ILSVRC2012_validation_ground_truth.txt, which has {len(wnids):,}"
                )
            if wnids[number - 1] in places:
                names.append(name)
                labels.append(places[wnids[number - 1]])
            else:
                left.append(name)
        if not names:
            raise UserError(f"{tree.path} holds no image of the classes in {self._train.path}")
        return self._listing(tree, names, labels, [stamped[name] for name in names]), left

    def _known(self) -> dict[str, int]:
        """The 1,000 classes' numbers by wnid; none without the devkit."""
        return {} if self._devkit is None else {wnid: number for number, wnid in self._devkit.synsets.items()}

    def _ground_truth(self) -> list[str]:
        """The wnid of every validation image, in the order of their numbers."""
        if self._devkit is None:
            raise UserError(
                f"{self._val.path} is flat, and its labels are in the devkit: add ILSVRC2012_devkit_t12.tar.gz to "
                f"{self.root}"
            )
        return self._devkit.ground_truth(self.VALIDATION)


def _path_of(tree: Tree, name: str) -> str:
    return f"{tree.path.name}/{name}"


def _leave(tree: Tree, folder: str, images: Collection[str], left: LeftOut) -> None:
    """Count what lies in a folder of a part beside its images, and beside the classes' folders at the top."""
    inside, above = tree.inside(folder), f"{folder}/" if folder else ""
    for name in inside.files:
        if name not in images:
            left.add(_path_of(tree, above + name), HIDDEN if name.startswith(".") else UNEXPECTED)
    for name, why in inside.others.items():
        left.add(_path_of(tree, above + name), why)
    for name in inside.folders:
        if folder or name.startswith("."):
            why = HIDDEN if name.startswith(".") else UNEXPECTED
            tree.leave_out(above + name, why, left, above=f"{tree.path.name}/")
