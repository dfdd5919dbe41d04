"""Networks of which it is known beforehand what every measure comes to, from their construction alone."""

import numpy as np
import pytest
import torch
from torch import nn

from invariance import ColorJitter, Mirror, Rotation, Transform, measure_model, wrap
from invariance.maps import Ridge
from invariance.transforms.base import GridPoint, check_batch

MEAN, STD = 0.4, 0.3
ALL = ["agreement", "effective_invariance", "l2_distance", "cka", "procrustes", "r2"]
UNCHANGED = {"agreement": 1, "l2_distance": 0, "cka": 1, "procrustes": 0, "r2": 1}


def images_of(count, sides, seed=1, channels=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, *sides), generator=generator, dtype=torch.uint8)


def wrapped(module, channels=1):
    return wrap(module, preprocess=([MEAN] * channels, [STD] * channels), name="known")


def seeded(make):
    torch.manual_seed(0)
    return make()


def moved_of(rows):
    """The rows of all g but the untouched one, by measure; of a map its report images, and all classes."""
    chosen = ~rows["g"].str.endswith("untouched") & (rows["split"] == "report") & (rows["fit_classes"] != "unseen")
    return rows[chosen].set_index("metric").sort_index()


def assert_unchanged(moved, count):
    """Every measure is that of φ(gx) = φ(x), to float32's rounding."""
    for metric, wanted in UNCHANGED.items():
        found = moved.loc[[metric], "score"]
        assert len(found) == count and (found - wanted).abs().max() < (2e-3 if metric == "procrustes" else 1e-5), metric


class Orbit(nn.Module):
    """h summed over the eight turns and reflections of a square image."""

    def __init__(self, side):
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(side * side, 16), nn.Tanh())
        self.sum, self.head = nn.Identity(), nn.Linear(16, 5)

    def forward(self, x):
        turned = [x.rot90(k, (-2, -1)) for k in range(4)]
        return self.head(self.sum(sum(self.first(one) + self.first(one.flip(-1)) for one in turned)))


@pytest.mark.parametrize("side", [8, 11])
def test_a_network_averaged_over_turns_and_mirrors_is_invariant_to_them_and_to_no_other(side):
    model = wrapped(seeded(lambda: Orbit(side)))
    quarters = [Rotation(angles=[-90, 90, 180]), Mirror()]
    rows = measure_model(model, images_of(61, (side, side)), transforms=quarters, layers=["sum"], measures=ALL)
    assert_unchanged(moved_of(rows), 6)
    assert (rows.consistency()["consistency"] == 1).all()
    other = measure_model(
        model, images_of(61, (side, side)), transforms=[Rotation(angles=[45])], layers=["sum"], measures=ALL
    )
    assert moved_of(other).loc["l2_distance", "score"] > 0.1 and moved_of(other).loc["cka", "score"] < 0.9


def test_a_map_undoes_exactly_what_permutes_the_units_of_a_layer():
    """What treats all pixels alike gives a mirrored image the units of the image, in another order."""
    network = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(70, 9), nn.Tanh(), nn.Linear(9, 6))
    )
    rows = measure_model(
        wrapped(network),
        images_of(90, (5, 7)),
        fit=images_of(400, (5, 7), seed=2),
        transforms=[Mirror()],
        layers=["2", "3"],
        maps=["identity", "orthogonal", Ridge(strengths=(1e-7,))],
        measures=["agreement", "l2_distance"],
        nulls=False,
    )
    moved = moved_of(rows).set_index(["layer", "map"], append=True)["score"]
    for map_ in ("orthogonal", "residual"):
        assert (moved["agreement", "2", map_] == 1).all() and (moved["l2_distance", "2", map_] < 2e-3).all()
        assert (moved["l2_distance", "3", map_] > 0.1).all()  # nine units behind it have lost what would be needed
    assert (moved["l2_distance", "2", "identity"] > 0.5).all() and (moved["agreement", "2", "identity"] < 1).all()


def test_a_network_of_the_pixels_alone_has_the_pixels_numbers():
    """L_L2 of the identity under a change of brightness that clamps nothing, by its formula in float64."""
    x = images_of(37, (5, 7)) // 2 + 60
    rows = measure_model(
        wrapped(nn.Sequential(nn.Flatten(), nn.Identity())),
        x,
        transforms=[ColorJitter(brightness=[-20, 30])],
        layers=["1"],
        measures=["l2_distance", "cka", "procrustes", "r2"],
    )
    phi = (x.double().numpy().reshape(37, -1) / 255 - MEAN) / STD
    rms = np.sqrt((phi**2).mean(0))
    rms = np.maximum(rms, 0.01 * np.sqrt((phi**2).mean()))
    moved = moved_of(rows)
    for row in moved.loc["l2_distance"].itertuples():
        by = float(row.g.rpartition("_")[2].rpartition(":")[2]) / 255 / STD
        wanted = np.linalg.norm(by / rms) / np.linalg.norm(phi / rms, axis=1)
        assert row.score == pytest.approx(wanted.mean(), rel=1e-5)
    for metric in ("cka", "procrustes", "r2"):  # these see no shift
        assert (moved.loc[[metric], "score"] - UNCHANGED[metric]).abs().max() < 2e-3


class Shift(Transform):
    """Circular shifts to the right and down: what leaves on one side comes back on the other."""

    unit, ordinal = "", True

    def params_of(self, uniforms):
        raise NotImplementedError

    def grid(self):
        places = [("untouched", 0, 0), ("1,0", 1, 0), ("0,2", 0, 2), ("-2,3", -2, 3)]
        return [
            GridPoint(label, float(k), {"by": torch.tensor([[down, right]])}, False)
            for k, (label, down, right) in enumerate(places)
        ]

    def apply(self, x, params):
        check_batch(x, params)
        down, right = params["by"][0].tolist()
        return x.roll((down, right), (-2, -1))


class Spectrum(nn.Module):
    """The magnitudes of an image's Fourier transform, which no circular shift changes."""

    def __init__(self, size):
        super().__init__()
        self.phases, self.magnitudes, self.head = nn.Identity(), nn.Identity(), nn.Linear(size, 6)

    def forward(self, x):
        waves = self.phases(torch.view_as_real(torch.fft.rfft2(x)))
        return self.head(self.magnitudes(torch.linalg.vector_norm(waves, dim=-1).flatten(1).log1p()))


def test_fourier_magnitudes_are_invariant_to_circular_shifts_and_phases_are_not():
    model = wrapped(seeded(lambda: Spectrum(6 * 5)))
    x, fit = images_of(71, (6, 9)), images_of(500, (6, 9), seed=2)
    rows = measure_model(
        model,
        x,
        fit=fit,
        transforms={"shift": Shift()},
        layers=["phases", "magnitudes"],
        maps=["identity", "orthogonal"],
    )
    moved = moved_of(rows).set_index(["layer", "map"], append=True)["score"]
    assert (moved["agreement", "phases", "identity"] == 1).all()  # the network is the same at every layer
    assert (moved["l2_distance", "magnitudes", "identity"] < 1e-5).all()
    assert (moved["l2_distance", "phases", "identity"] > 0.5).all()
    # every wave is turned by an angle of its own
    assert (moved["l2_distance", "phases", "orthogonal"] < 2e-3).all()
    beside = measure_model(model, x, transforms={"shift": Shift()}, layers=["magnitudes"], measures=ALL)
    assert_unchanged(moved_of(beside), 3)


def test_the_derivative_of_a_linear_network_by_brightness_is_its_matrix_of_ones():
    network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(105, 7), nn.Linear(7, 4)))
    x = images_of(23, (5, 7), channels=3)
    rows = measure_model(
        wrapped(network, 3), x, transforms=[ColorJitter()], layers=["1", "2"], measures=["derivative"]
    ).set_index("layer")
    phi, rate = (x.double().numpy().reshape(23, -1) / 255 - MEAN) / STD, np.full(105, 1 / (255 * STD))
    for layer in ("1", "2"):
        weight, bias = (one.detach().double().numpy() for one in network[int(layer)].parameters())
        phi, rate = phi @ weight.T + bias, weight @ rate
        rms = np.maximum(np.sqrt((phi**2).mean(0)), 0.01 * np.sqrt((phi**2).mean()))
        wanted = np.linalg.norm(rate / rms) / np.linalg.norm(phi / rms, axis=1)
        assert rows.loc[layer, "score"] == pytest.approx(wanted.mean(), rel=1e-5)
        assert rows.loc[layer, "unit"].startswith("per ")
