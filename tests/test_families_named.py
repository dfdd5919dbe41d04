"""Settings of a family that no chosen network has are said to change nothing."""

import pytest

from invariance.engine.grids import grids_for
from invariance.experiments.families import tell_unused


@pytest.fixture
def network(tmp_path):
    def made(family):
        folder = tmp_path / family
        folder.mkdir()
        (folder / "config.yaml").write_text(f"transform: {{name: {family}}}\n")
        return folder

    return made


def test_what_no_network_has_is_said(network, capsys):
    chosen = [network("rotation"), network("noise")]
    tell_unused("G", {"rotation": {}, "shear": {}, "blur": {}}, chosen)
    assert capsys.readouterr().err == "".join(
        f"G.{family} changes nothing: no chosen network was trained with {family}\n" for family in ("blur", "shear")
    )
    tell_unused("G", {"rotation": {}}, chosen)
    assert not capsys.readouterr().err


def test_a_baseline_may_take_any(network, capsys):
    tell_unused("grid", {"shear": {}}, [network("rotation"), network("baseline")])
    assert not capsys.readouterr().err


def test_a_family_without_settings_of_its_own_has_its_own_grid():
    trained = {
        "name": "rotation",
        "_target_": "invariance.transforms.rotation.Rotation",
        "range": 20,
        "angles": [-20, 5],
    }
    [grid] = grids_for(trained, "own", {"rotation": None, "blur": None})
    assert [point.label for point in grid.transform.grid()] == ["-20", "untouched", "5"]
