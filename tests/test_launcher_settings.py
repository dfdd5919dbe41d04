"""Settings of launchers: a wrong one is refused before anything of a sweep is written, a mistyped one gets its name."""

import importlib
import sys

import pytest

from invariance.launch.known import launcher_keys

LOCAL, SLURM = "hydra/launcher=local", "hydra/launcher=slurm"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([LOCAL, "hydra.launcher.slots=-3"], "hydra.launcher.slots=-3: give a whole number"),
        ([LOCAL, "hydra.launcher.fork=maybe"], "hydra.launcher.fork='maybe': give true or false"),
        ([LOCAL, "hydra.launcher.per_gpu=0"], "hydra.launcher.per_gpu=0: give a whole number"),
        ([LOCAL, "hydra.launcher.gpus=[9999]"], "hydra.launcher.gpus=[9999]: this machine has"),
        ([SLURM], "hydra/launcher=slurm: there is no sbatch here"),
        ([LOCAL, "hydra.launcher.slot=3"], "unknown key 'hydra.launcher.slot'; did you mean 'hydra.launcher.slots'?"),
        ([LOCAL, "+hydra.launcher.gpu=1"], "unknown key 'hydra.launcher.gpu'; did you mean 'hydra.launcher.gpus'?"),
        (["hydra.launcher.slots=3"], "unknown key 'hydra.launcher.slots': hydra/launcher=one has no settings"),
    ],
)
def test_a_wrong_setting_is_refused_and_nothing_is_written(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no sbatch
    monkeypatch.setattr(sys, "argv", ["invariance-train", "-m", "seed=0,1", *arguments])
    with pytest.raises(SystemExit) as end:
        importlib.import_module("invariance.train").main()
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith(f"error: {said}") and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("typed", ["hydra/launcher=dry", "hydra/launcher=local", "+hydra.launcher.launcher=mine:Own"])
def test_a_launcher_without_a_sweep_is_refused(mistake, typed):
    assert mistake("train", "logger=csv", typed) == (
        f"error: {typed}: it runs the jobs of a sweep, and this is one command; add -m, or leave it out"
    )


def test_a_launcher_s_settings_are_those_of_its_file():
    assert launcher_keys("one") == launcher_keys("dry") == []
    assert launcher_keys("local") == ["cores", "fork", "gpus", "per_gpu", "slots"]
    assert {"partition", "timeout_min"} <= set(launcher_keys("slurm"))
