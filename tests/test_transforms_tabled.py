"""Tables: what parameters come to, made on the CPU, and all that a device is given to apply g."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from invariance.models.recipe import Normalise
from invariance.transforms import build
from invariance.transforms.base import UNTOUCHED
from invariance.transforms.blur import Blur
from invariance.transforms.mirror import Mirror
from invariance.transforms.noise import Noise
from invariance.transforms.rotation import Rotation
from invariance.transforms.severities import Severities
from invariance.transforms.tabled import Fixed, tabled
from tests.test_transforms_families import FAMILIES as NAMES
from tests.test_transforms_families import LIBRARY, config_of, ranges_of

FAMILIES = {
    name: build(config_of(name, ranges_of(name)[-1])) for name in NAMES if name not in LIBRARY and name != "baseline"
} | {"mirror one way": Mirror(range="horizontal"), "wide blur": Blur(range=113, sigmas=[113])}
OF_KORNIA = {"contrast", "hue", "saturation"}
"""Families whose colours kornia copies its own constants to the device for."""


def images(n=6, height=37, width=44):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1)) * 255


def drawn(family, n=6):
    """Parameters as training draws them, some images staying as they are."""
    params = family.sample(n, torch.Generator().manual_seed(2))
    still = next(point.params for point in family.grid() if point.label == UNTOUCHED)
    return {
        name: torch.cat([values[: n - 2], still[name].expand(2, *values.shape[1:])]) for name, values in params.items()
    }


def some(family):
    """Parameters of some g of its grid, the untouched among them."""
    grid = family.grid()
    return [point.params for point in grid if point in (grid[1], grid[-1]) or point.label == UNTOUCHED]


class Copies(TorchDispatchMode):
    """Counts what is copied from the CPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [one for one in args if isinstance(one, torch.Tensor)]
        self.count += isinstance(out, torch.Tensor) and out.is_cuda and any(one.device.type == "cpu" for one in given)
        return out


@pytest.mark.parametrize("name", FAMILIES)
def test_tables_that_travelled_give_what_apply_gives(name):
    family, x = tabled(FAMILIES[name]), images()
    for params in (drawn(family), *some(family)):
        tables = family.tables(params, x.shape[1:])
        assert {len(table) for table in tables.values()} <= {1, len(x)}
        found = family.ready({key: table.clone() for key, table in tables.items()}, x)(x)
        assert torch.equal(found, family.apply(x, params))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in OF_KORNIA])
def test_a_gpu_is_never_waited_for(name, monkeypatch):
    """On tensors without numbers, which are told to be a GPU's: reading one, or mixing devices, is an error there."""
    monkeypatch.setattr("invariance.transforms.counter._TRITON", False)  # a kernel would want numbers
    family, x = tabled(FAMILIES[name]), images()
    every = [drawn(family), *some(family)]
    shapes = [
        {key: (table.shape, table.dtype) for key, table in family.tables(params, x.shape[1:]).items()}
        for params in every
    ]
    with FakeTensorMode(), Copies() as copies:
        away = torch.empty(x.shape, device="cuda")
        for of_g in shapes:
            tables = {key: torch.empty(shape, dtype=dtype, device="cuda") for key, (shape, dtype) in of_g.items()}
            assert family.ready(tables, away)(away).is_cuda
        assert copies.count == 0
        if "sigma" in family.grid()[-1].params:
            family.fixed(family.grid()[-1].params, away)
            assert copies.count > 0, "tables that come from the CPU are not seen"


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("normalised", [True, False])
def test_a_fixed_g_of_images_in_parts_is_that_of_all_at_once(name, normalised, monkeypatch):
    monkeypatch.setattr("invariance.transforms.tabled._CACHED", 0)
    family, x = FAMILIES[name], images(7)
    prepare = Normalise([123.0, 117.0, 104.0], [58.0, 57.0, 57.0], scale=1)
    fixed = Fixed(family, prepare, by_image=normalised)
    for params in some(family) * 2:
        assert torch.equal(fixed(x, params), prepare(family.apply(x, params)))
        assert torch.equal(fixed(x.byte(), params), prepare(family.apply(x.byte().float(), params)))


def test_what_is_fixed_is_worked_out_once_for_every_size():
    made = []

    class Noted(Noise):
        def tables(self, params, shape):
            made.append(shape)
            return super().tables(params, shape)

    family = Noted(sigmas=[10])
    fixed, params = Fixed(family), family.grid()[-1].params
    for x in (images(4), images(3), images(3, height=20), images(2)):
        assert torch.equal(fixed(x, params), Noise().apply(x, params))
    assert made == [(3, 37, 44), (3, 20, 44)]


def test_an_apply_of_its_own_is_what_counts():
    class Brighter(Rotation):
        def apply(self, x, params):
            return super().apply(x, params) / 2 + 100

    family, x = Brighter(range=20, angles=[15]), images()
    assert tabled(family) is None and tabled(Rotation()) is not None
    point = family.grid()[-1]
    wanted = Rotation().apply(x, point.params) / 2 + 100
    assert torch.equal(family.apply(x, point.params), wanted)
    assert torch.equal(Fixed(family)(x, point.params), wanted)


def test_severities_are_fixed_as_their_family():
    family = Severities({"_target_": "invariance.transforms.noise.Noise", "sigmas": [5, 10]})
    x, point = images(), family.grid()[1]
    assert torch.equal(Fixed(family)(x, point.params), family.of.apply(x, point.params))
