"""What a shell, a scheduler or a container sets: the same numbers, the same outputs, or one line."""

import os
import pwd
import subprocess
import sys
import warnings

import pytest

from invariance.cli.messages import one_line
from invariance.errors import UserError
from invariance.runs import origin
from invariance.runs.surroundings import lenient, require_utf8_names, rounding, settle

LAUNCHERS = {
    "RANK": "2",
    "LOCAL_RANK": "2",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "0",
    "NODE_RANK": "1",
    "ROLE_RANK": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
    "PMIX_RANK": "1",
    "TORCHELASTIC_RUN_ID": "a",
    "TORCHELASTIC_RESTART_COUNT": "1",
    "MV2_COMM_WORLD_RANK": "1",
    "JSM_NAMESPACE_RANK": "1",
}
SWITCHES = {
    "NVIDIA_TF32_OVERRIDE": "1",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "PL_TRAINER_MAX_EPOCHS": "1",
    "PL_GLOBAL_SEED": "7",
    "TORCHDYNAMO_DISABLE": "1",
    "HYDRA_MAIN_MODULE": "x",
}
KEPT = {
    "SLURM_CONF": "/etc/slurm.conf",
    "SLURM_JOB_ID": "7",
    "SLURM_CPUS_PER_TASK": "2",
    "CUDA_VISIBLE_DEVICES": "1",
    "OMP_NUM_THREADS": "2",
    "PATH": "/bin",
    "HYDRA_FULL_ERROR": "1",
    "USER": "me",
    "PLATFORM": "x",
}


def test_variables_of_launchers_and_switches_of_numbers_are_taken_away_and_no_others():
    environment = {**LAUNCHERS, **SWITCHES, **KEPT}
    assert settle(environment) == sorted(SWITCHES)
    assert environment == KEPT


def test_a_user_whom_nobody_wrote_down_has_a_name(monkeypatch):
    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    environment = {"PATH": "/bin"}
    settle(environment)
    assert environment["LOGNAME"] == f"uid{os.getuid()}"


def test_warnings_that_somebody_made_errors_end_no_command():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settle({"USER": "me"})
        with pytest.warns(UserWarning, match="of a library"):
            warnings.warn("of a library", stacklevel=1)


def test_names_that_are_not_utf8_are_refused(monkeypatch):
    require_utf8_names()
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-15")
    with pytest.raises(UserError, match="iso8859-15 here, not as UTF-8: set PYTHONUTF8=1"):
        require_utf8_names()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp437"])
def test_every_letter_can_be_printed(encoding):
    reading, writing = os.pipe()
    _, stream = lenient(writing, encoding)
    text = "φ(x) − σ ≤ 3 × … \udcff ü\n"
    print(text, end="", file=stream, flush=True)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    assert said == text.encode(encoding, errors="backslashreplace") and said.endswith(b"\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_what_cannot_be_printed_raises_nothing_and_is_known():
    reading, writing = os.pipe()
    raw, stream = lenient(writing, "utf-8")
    print("read", file=stream, flush=True)
    assert raw.lost is None
    os.close(reading)
    for _ in range(2):
        print("not read", file=stream, flush=True)
    assert raw.lost == "nobody reads it"
    os.close(writing)
    full = os.open("/dev/full", os.O_WRONLY)
    raw, stream = lenient(full, "utf-8")
    print("no room", file=stream, flush=True)
    assert raw.lost == os.strerror(28)
    os.close(full)


def test_a_home_that_nobody_has_is_one_line(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no entry")))
    from pathlib import Path

    with pytest.raises(RuntimeError) as error:
        Path("~/runs").expanduser()
    assert "set HOME, or write the folder out" in one_line(error.value, "train")
    assert one_line(RuntimeError("CUDA error"), "train") is None


def test_a_checkout_that_git_cannot_tell_of_is_unknown_and_not_clean(tmp_path, monkeypatch):
    root = tmp_path / "checkout"
    (root / ".git").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert origin.checkout(root) == (None, None)
    git = tmp_path / "bin/git"
    git.parent.mkdir()
    monkeypatch.setenv("PATH", f"{git.parent}:/usr/bin:/bin")
    git.write_text("#!/bin/sh\necho 'fatal: detected dubious ownership' >&2\nexit 128\n")
    git.chmod(0o755)
    assert origin.checkout(root) == (None, None)
    # of another checkout than a hook's or a script's
    git.write_text('#!/bin/sh\n[ -z "$GIT_DIR" ] || exit 1\n[ "$3" = status ] && exit 0\necho abc\n')
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    assert origin.checkout(root) == ("abc", False)
    assert origin.checkout(tmp_path) == (None, None)


def test_the_provenance_has_what_decides_the_last_digits(monkeypatch):
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(sys, "argv", ["/bin/invariance-train", "+note=\udcff"])
    assert rounding()["OMP_NUM_THREADS"] == "3"
    facts = origin.made_by.__wrapped__()
    assert facts["threads"] == torch.get_num_threads() and facts["environment"]["OMP_NUM_THREADS"] == "3"
    assert facts["command"] == r"invariance-train +note=\udcff"


def test_what_others_set_is_told_once(monkeypatch, capsys):
    from invariance.cli.command import tell_ignored

    names = ["NVIDIA_TF32_OVERRIDE", "PL_GLOBAL_SEED"]
    tell_ignored(names)
    tell_ignored(names)
    assert capsys.readouterr().err.splitlines() == [
        "note: not heeded, for the configuration decides: NVIDIA_TF32_OVERRIDE, PL_GLOBAL_SEED"
    ]


@pytest.mark.long
def test_in_the_oddest_surroundings_a_sweep_runs_to_its_end_with_the_same_rows(tmp_path, compose):
    """All at once, as a job: others' variables, odd locale and folders, no stdin, and a reader that goes away."""
    from invariance.experiments.train import train

    quick = [
        "model=tiny",
        "recipe=smoke",
        "recipe.updates=6",
        "recipe.val_every=3",
        "recipe.step=4",
        "trainer=cpu",
        "progress=false",
        "logger=csv",
    ]
    train(compose("train", *quick, f"runs={tmp_path}/plain", f"prepared={tmp_path}/prepared", "seed=1"))
    odd = {
        **LAUNCHERS,
        **SWITCHES,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "PYTHONOPTIMIZE": "1",
        "PYTHONWARNINGS": "error",
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "POSIX",
        "TZ": "Pacific/Kiritimati",
        "HOME": "/nonexistent",
        "TMPDIR": "/nonexistent",
        "TERM": "dumb",
        "COLUMNS": "7",
        "NO_COLOR": "1",
        "PYTHONHASHSEED": "77",
        "WANDB_MODE": "disabled",
        "PATH": "/nonexistent",
        "MPLCONFIGDIR": "/nonexistent",
    }
    arguments = ["-m", *quick, f"runs={tmp_path}/odd", f"prepared={tmp_path}/other", "seed=0,1"]
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "invariance.train", *arguments],
        cwd=tmp_path,
        env=odd,
        stdout=writing,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.close(0),
    )
    os.close(writing)
    said = ended.stderr.decode("ascii").splitlines()
    assert ended.returncode == 0, said
    assert f"note: not heeded, for the configuration decides: {', '.join(sorted(SWITCHES))}" in said
    lost = "note: what is printed is lost from here on (nobody reads it); the command goes on"
    assert said.count(lost) == 1 and not any("Traceback" in line for line in said)
    rows = [(tmp_path / where / "train/digits/baseline/seed1/rows.csv").read_text() for where in ("plain", "odd")]
    assert rows[0] == rows[1]
    assert (tmp_path / "odd/train/digits/baseline/seed0/done.json").exists()
    assert list((tmp_path / "odd/train/digits/baseline/seed1").glob("curves/*/metrics.csv"))
