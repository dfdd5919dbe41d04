"""The registry of measures: the only list, open to a measure from outside the package."""

import subprocess
import sys
from typing import get_args

import pytest
import torch

from invariance.errors import UserError
from invariance.measures import INDEX_NAMES, MEASURES, Measure, measure_named
from invariance.measures.moments import ComparedSide, Pairing
from invariance.settings import pages


def overlap(x, y):
    """A measure from outside the package."""
    return (x * y).mean()


MINE = Measure(name="mine", label="Mine", better="higher", bounds=(-1.0, 1.0), function=lambda pairing: 0.5)


def test_every_measure_has_what_rows_tables_and_engines_ask_for():
    for name, measure in MEASURES.items():
        assert measure.name == name and measure.label and measure.bounds[0] < measure.bounds[1]
        if measure.function:
            assert callable(measure.call)
        else:
            with pytest.raises(UserError, match="made of another measure's numbers"):
                assert measure.call
    assert INDEX_NAMES == ("cka", "procrustes", "r2")


def test_settings_name_measures_of_the_registry():
    """All but derivatives, which `measure_model` alone takes."""
    asked = {name for name, measure in MEASURES.items() if measure.function}
    assert set(get_args(pages.Measured)) == {name for name in asked if "tangent" not in MEASURES[name].needs}
    assert set(get_args(pages.Compared)) == {"l2_distance", "indices"}


def test_indices_of_a_pairing_share_one_product():
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(30, d, generator=generator) for d in (4, 3))
    pairing = Pairing(ComparedSide(x), ComparedSide(y))
    found = {name: MEASURES[name].call(pairing) for name in INDEX_NAMES}
    product = pairing.cross
    assert all(MEASURES[name].bounds[0] <= value <= MEASURES[name].bounds[1] for name, value in found.items())
    assert pairing.cross is product
    with pytest.raises(UserError, match="30 and 29 images"):
        Pairing(ComparedSide(x), ComparedSide(y[1:]))


def test_a_measure_from_outside_is_found_by_its_module_and_name():
    x, y = torch.arange(6.0).reshape(3, 2), torch.ones(3, 2)
    assert measure_named(f"{__name__}:overlap").call(Pairing(ComparedSide(x), ComparedSide(y))) == 2.5
    assert measure_named(f"{__name__}:overlap").label == "overlap"
    assert measure_named(f"{__name__}:MINE") is MINE and MINE.call(None) == 0.5
    assert measure_named("cka") is MEASURES["cka"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ckaa", "did you mean 'cka'"),
        ("no_such_module:f", "no_such_module cannot be imported"),
        ("tests.test_measures:absent", "has no absent"),
        ("tests.test_measures:__doc__", "is a str: give a function"),
        ("a b:c", "give module:function"),
        ("os.path:join:x", "give module:function"),
    ],
)
def test_what_is_no_measure_is_refused_in_one_line(name, told):
    with pytest.raises(UserError, match=told):
        measure_named(name)


def test_knowing_the_names_loads_no_torch():
    code = "import sys, invariance.measures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
