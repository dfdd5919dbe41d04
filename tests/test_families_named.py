"""Settings of a family that no chosen network has are said to change nothing."""

import pytest

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
