"""What is kept between commands is verified when it is read: features, pieces of unfinished work, plans."""

import io
import json
import math
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress

import invariance.engine.store
from invariance.engine.comparing import Held, PairUnit
from invariance.engine.pair_units import UnitResults
from invariance.engine.store import FACTS, FeatureImages, Features, Store
from invariance.errors import UserError
from invariance.experiments.pair_features import Stored
from invariance.runs.checked import DamagedFile, read_facts, read_part, write_facts, write_part
from invariance.runs.parts import Part, Parts
from invariance.runs.rows import Row, to_frame
from invariance.transforms import build

BASELINE = {"name": "baseline", "_target_": "invariance.transforms.baseline.Baseline"}
N_FIT, N_REPORT, DIM = 7, 5, 3
FLIPS = range(0, 600, 13)


def flip(path, at, bit=1):
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= bit
    path.write_bytes(content)


@pytest.mark.parametrize("at", FLIPS)
def test_a_flipped_bit_anywhere_in_a_part_is_seen(tmp_path, at):
    write_part(path := tmp_path / "part", about := {"run": "träin/a", "g": ["5", "-5"]}, bytes(range(256)) * 2)
    assert read_part(path, about) == bytes(range(256)) * 2
    flip(path, at, 1 << at % 8)
    with pytest.raises(DamagedFile):
        read_part(path, about)


@pytest.mark.parametrize("at", FLIPS)
def test_a_flipped_bit_anywhere_in_facts_changes_nothing_unseen(tmp_path, at):
    write_facts(path := tmp_path / "facts.json", facts := {"dim": 3, "flaw": "", "nested": {"ü": [1.5, None]}})
    assert read_facts(path) == (facts, True)
    flip(path, at, 1 << at % 8)
    try:
        held, hashed = read_facts(path)
    except (DamagedFile, UnicodeDecodeError):
        return
    assert held == facts or not hashed


def test_facts_of_before_hashes_are_read_as_such(tmp_path):
    path = tmp_path / "facts.json"
    path.write_text('{"dim": 3}')
    assert read_facts(path) == ({"dim": 3}, False)
    for wrong in ("", "[]", "[" * 100_000, '{"dim": 3, "xxh3": "0"}', '{"dim": 3, "xxh3": 7}'):
        path.write_text(wrong)
        with pytest.raises(DamagedFile):
            read_facts(path)


def test_a_part_of_something_else_is_none_of_this(tmp_path):
    write_part(path := tmp_path / "part", {"run": "a"}, b"content")
    assert read_part(tmp_path / "none", {"run": "a"}) is None
    for other in ({"run": "b"}, {}, {"run": "a", "g": []}):
        with pytest.raises(DamagedFile, match="something else"):
            read_part(path, other)
    path.unlink()
    path.mkdir()
    with pytest.raises(DamagedFile):
        read_part(path, {"run": "a"})


class Images(FeatureImages):
    """Images of a made-up network."""

    identity = {"data set": "digits", "classes": ("a", "b")}  # noqa: RUF012


class Kept:
    """A store of features of made-up networks, whose extraction is counted."""

    def __init__(self, root, monkeypatch):
        self.store, self.extracted = Store(root, "relu7", 4), []

        def extract(phi, _normalise, images, indices, *_args, advance, **_settings):
            self.extracted.append((phi, images))
            advance(len(indices))
            generator = torch.Generator().manual_seed(len(phi) * len(images) * len(indices))
            values = torch.rand(len(indices), DIM, generator=generator)
            return values if phi != "broken" else values.fill_(math.nan)

        monkeypatch.setattr(invariance.engine.store, "extract", extract)

    def of(self, name):
        split = lambda side: type("S", (), {"images": side, "__len__": lambda _: N_REPORT})()  # noqa: E731
        prepared = SimpleNamespace(sha256="data", split=split, report="test", whole=True)
        prepared.with_images = lambda progress: prepared
        images = Images(prepared, "val", np.arange(N_FIT))
        network = SimpleNamespace(
            name=f"digits/{name}",
            weights=f"hash of {name}",
            transform=BASELINE,
            untouching=build(BASELINE),
            device="cpu",
            phi=name,
            classifier=SimpleNamespace(normalise=None),
        )
        return network, images

    def make(self, name):
        with Progress(disable=True) as progress:
            return self.store.make(*self.of(name), progress, progress.add_task("φ"))

    def again(self, name):
        """What a second command does."""
        return self.store.find(*self.of(name)) or self.make(name)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    return Kept(tmp_path / "features", monkeypatch)


def sides(features):
    return [features.load(side) for side in ("fit", "report")]


@pytest.mark.parametrize("shown", [True, False])
def test_images_that_are_made_again_for_features_have_a_bar_of_their_own(kept, shown):
    network, images = kept.of("a")
    bars = []
    images.prepared.whole = False
    with Progress(console=Console(file=io.StringIO()), disable=not shown) as progress:
        images.prepared.with_images = lambda progress: bars.append((progress, live.is_started)) or images.prepared
        live = progress.live
        kept.store.make(network, images, progress, progress.add_task("φ"))
        assert live.is_started == shown
    assert bars == [(shown, False)]


def test_features_are_read_as_they_were_written(kept):
    made = kept.make("a")
    fit, report = sides(made)
    assert fit.dtype == report.dtype == torch.float32 and fit.shape == (N_FIT, DIM) and report.shape == (N_REPORT, DIM)
    np.testing.assert_allclose(fit.double().square().mean(0), 1, rtol=1e-6)
    found = kept.again("a")
    assert len(kept.extracted) == 2 and all(map(torch.equal, sides(found), (fit, report)))
    assert np.array_equal(np.load(made.directory / "fit.npy"), fit.numpy())  # any program can read them


def held_by(kept, **features):
    sources = {label: Stored(one, partial(kept.make, label)) for label, one in features.items()}
    return Held(sources, torch.device("cpu"))


def exchange(one, other):
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def not_a_number(path):
    values = np.load(path)
    values[2, 1] = math.nan
    np.save(path, values)


DAMAGE = {
    "a bit": lambda folder: flip(folder / "report.npy", -5),
    "a bit of a header": lambda folder: flip(folder / "fit.npy", 20),
    "zeros": lambda folder: (folder / "fit.npy").write_bytes((folder / "fit.npy").read_bytes()[:-40] + bytes(40)),
    "cut": lambda folder: (folder / "report.npy").write_bytes((folder / "report.npy").read_bytes()[:-8]),
    "longer": lambda folder: (folder / "report.npy").write_bytes((folder / "report.npy").read_bytes() + bytes(8)),
    "empty": lambda folder: (folder / "fit.npy").write_bytes(b""),
    "absent": lambda folder: (folder / "fit.npy").unlink(),
    "splits exchanged": lambda folder: exchange(folder / "fit.npy", folder / "report.npy"),
    "not a number": lambda folder: not_a_number(folder / "report.npy"),
    "scale": lambda folder: flip(folder / "scale.npy", -1),
    "marker": lambda folder: (folder / FACTS).write_text((folder / FACTS).read_text().replace('"dim": 3', '"dim": 2')),
    "no hash": lambda folder: (folder / FACTS).write_text(
        json.dumps({key: value for key, value in json.loads((folder / FACTS).read_text()).items() if key != "xxh3"})
    ),
    "no marker": lambda folder: (folder / FACTS).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_features_are_made_again_and_said_once(kept, damage, capsys):
    whole = sides(made := kept.make("a"))
    damage(made.directory)
    held = held_by(kept, a=kept.again("a"))
    assert all(map(torch.equal, (held.side("a", "fit"), held.side("a", "report")), whole))
    assert len(kept.extracted) == 4
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{made.directory} is not used (" in said and "computed again" in said
    assert all(map(torch.equal, sides(kept.again("a")), whole)) and len(kept.extracted) == 4


def test_features_of_two_networks_or_layers_that_were_exchanged_are_made_again(kept, capsys):
    a, b = kept.make("a"), kept.make("bb")
    ours, theirs = sides(a), sides(b)
    exchange(a.directory, b.directory)
    assert all(map(torch.equal, sides(kept.again("a")), ours))
    assert all(map(torch.equal, sides(kept.again("bb")), theirs))
    assert len(kept.extracted) == 8 and capsys.readouterr().err.count("it is of something else") == 2
    exchange(a.directory / "fit.npy", b.directory / "fit.npy")
    held = held_by(kept, a=kept.again("a"), bb=kept.again("bb"))
    assert torch.equal(held.fit("a"), ours[0]) and torch.equal(held.fit("bb"), theirs[0])
    kept.store.layer = "relu6"
    other = kept.make("a")
    shutil.copytree(a.directory, other.directory, dirs_exist_ok=True)
    assert kept.store.find(*kept.of("a")) is None


def test_features_that_are_damaged_between_two_units_are_made_again_in_both_sides(kept, capsys):
    held = held_by(kept, a=kept.make("a"))
    fit = held.fit("a").clone()
    flip(kept.store.directory(*kept.of("a")) / "report.npy", -3)
    held.compared("a")
    assert capsys.readouterr().err.count("computed again") == 1 and torch.equal(held.fit("a"), fit)


def test_a_disk_that_gives_back_other_than_was_written_is_told(kept, monkeypatch):
    save = invariance.engine.store._save

    def broken(path, values):
        hashed = save(path, values)
        flip(path, -1)
        return hashed

    monkeypatch.setattr(invariance.engine.store, "_save", broken)
    with pytest.raises(UserError, match="does not hold what was just written to it .scale.npy.*choose another place"):
        kept.make("a")
    monkeypatch.setattr(invariance.engine.store, "_save", lambda p, v: (save if p.stem == "scale" else broken)(p, v))
    held = held_by(kept, a=kept.make("a"))
    with pytest.raises(UserError, match="does not hold what was just written to it .fit.npy"):
        held.fit("a")


def test_features_that_are_not_finite_say_so_themselves(kept):
    kept.make("broken")
    assert kept.again("broken").flaw == "not_finite" and len(kept.extracted) == 2
    assert isinstance(kept.again("broken"), Features)


UNITS = [PairUnit("ridge", "a", ("b", "c")), PairUnit("ridge", "b", ("a", "c"))]


def test_results_of_units_are_verified(tmp_path, capsys):
    results = UnitResults(tmp_path / "unfinished-1")
    assert results.plan() is None and results.read(UNITS[0]) is None
    results.write_plan(UNITS)
    for k, unit in enumerate(UNITS):
        results.write(unit, {"fit": np.full((2, 4), k, dtype=np.float32), "status": np.array(["ok", "ok"])})
    assert results.plan() == UNITS and results.read(UNITS[1])["fit"].sum() == 8 and not capsys.readouterr().err
    exchange(results._path(UNITS[0]), results._path(UNITS[1]))
    assert results.read(UNITS[0]) is None is results.read(UNITS[1])
    other = UnitResults(tmp_path / "unfinished-2")
    shutil.copytree(tmp_path / "unfinished-1", tmp_path / "unfinished-2")
    exchange(other._path(UNITS[0]), other._path(UNITS[1]))
    assert other.read(UNITS[0]) is None and other.plan() is None
    assert capsys.readouterr().err.count("it is of something else") == 4
    results.write(UNITS[0], {"fit": np.zeros((2, 4))})
    flip(results._path(UNITS[0]), -60)
    flip(tmp_path / "unfinished-1/plan.json", -4, 16)
    assert results.read(UNITS[0]) is None and results.plan() is None
    assert capsys.readouterr().err.count("it is not as it was written") == 2


ROW = {
    "stage": "measure",
    "data": "digits",
    "network": "baseline",
    "family": "baseline",
    "seed": 0,
    "split": "test",
    "metric": "error_rate",
    "n_images": 7,
    "run": "measure/a",
}


def parts_of(root, name, size=2, **identity):
    return Parts(SimpleNamespace(directory=root / name, name=name, identity={"name": name, **identity}), size)


def test_parts_of_a_measurement_are_verified(tmp_path, capsys):
    parts, rows = parts_of(tmp_path, "measure/a"), to_frame([Row(**ROW, score=0.1 + 0.2, g="rotation:5")])
    scores = {"test/l2_distance": np.array([[0.5, np.nan, 1.0]], np.float32)}
    parts.write(0, ["5", "10"], Part(rows, "5,ok,1,2,\n", scores))
    part = parts.read(0, ["5", "10"])
    assert part.rows["score"][0] == 0.1 + 0.2 and part.fits == "5,ok,1,2,\n" and parts.read(1, ["15"]) is None
    np.testing.assert_array_equal(part.scores["test/l2_distance"], scores["test/l2_distance"])
    shutil.copytree(tmp_path / "measure/a/parts", tmp_path / "measure/b/parts")
    assert parts_of(tmp_path, "measure/b").read(0, ["5", "10"]) is None
    assert parts_of(tmp_path, "measure/a", layer="relu6").read(0, ["5", "10"]) is None
    assert parts.read(0, ["5", "-10"]) is None
    assert capsys.readouterr().err.count("it is of something else") == 3
    [path] = (tmp_path / "measure/a/parts").iterdir()
    path.write_bytes(path.read_bytes().replace(b"0.30000000000000004", b"0.20000000000000004"))
    assert parts.read(0, ["5", "10"]) is None and "it is not as it was written" in capsys.readouterr().err
    with pytest.raises(UserError, match="was changed while it was worked in; repeat"):
        parts.all([["5", "10"]])


def test_parts_of_before_hashes_are_measured_again(tmp_path, capsys):
    (folder := tmp_path / "measure/a/parts").mkdir(parents=True)
    (folder / "2_0.csv").write_text("rows")
    (folder / "2_0.fits").write_text("5,ok,1,2,\n")
    assert parts_of(tmp_path, "measure/a").read(0, ["5"]) is None and not list(folder.iterdir())
    assert "2_0.csv is not used (a version that kept no hashes wrote it)" in capsys.readouterr().err
