"""Seals of finished runs: whatever changes of rows, settings, files or places is said, and nothing else is."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import yaml

from invariance.errors import UserError
from invariance.runs.files import sha256
from invariance.runs.rows import Row, check_values, read_rows, to_frame, write_rows
from invariance.runs.run import Run
from invariance.runs.seal import check, rows_of, seal
from invariance.training.trained import Network

FIT = {"split": "val", "images": 5000}


def row(name, **changes):
    stage, data, network, seed = name.split("/")[:4]
    base = dict(
        stage=stage,
        data=data,
        network=network,
        family="rotation",
        range="20",
        seed=int(seed[4:]),
        split="test",
        metric="error_rate",
        score=0.25,
        low=0.2,
        high=0.31,
        n_images=359,
        run=name,
    )
    return Row(**(base | changes))


def trained(root: Path, network: str = "rotation_20", seed: int = 0, score: float = 0.25) -> Path:
    name = f"train/digits/{network}/seed{seed}"
    config = {
        "name": network,
        "seed": seed,
        "transform": {"name": "rotation", "range": 20},
        "data": {"name": "digits", "sha256": "ab"},
        "model": {"input_size": 24},
    }
    with Run(root, name, config) as run:
        (run.directory / "best.ckpt").write_bytes(f"weights of {network} {seed}".encode())
        weights = sha256(run.directory / "best.ckpt")
        data = {"name": "digits", "colour": "gray", "fit": FIT, "report": "test"}
        run.record({"data": data, "weights_sha256": weights})
        (run.directory / "confusion_test.csv").write_text("0,1\n")
        run.finish(to_frame([row(name, split="val"), row(name, score=score)]))
    return run.directory


def measured(root: Path, network: str = "rotation_20", grid: str = "rotation") -> Path:
    name = f"measure/digits/{network}/seed0/{grid}/residual_ridge"
    config = {
        "network": f"digits/{network}/seed0",
        "weights": "12",
        "data": {"name": "digits", "fit": FIT, "report": "test"},
        "layer": "fc7",
        "metrics": ["error_rate", "l2_distance"],
        "map": "residual",
    }
    about = {"layer": "fc7", "map": "residual", "solver": "ridge"}
    with Run(root, name, config) as run:
        (run.directory / "fits.csv").write_text("g,status\n")
        run.finish(
            to_frame(
                [
                    row(name, g=f"{grid}:{g}", split=split, metric=metric, **about)
                    for g in ("untouched", "20")
                    for split in ("val", "test")
                    for metric in ("error_rate", "l2_distance")
                ]
            )
        )
    return run.directory


def compared(root: Path) -> Path:
    name = "distance/digits/blur_3-seed0+rotation_20-seed0/linear_ridge"
    config = {
        "networks": {"blur_3/seed0": "12", "rotation_20/seed0": "34"},
        "data": {"name": "digits", "report": "test"},
        "layer": "fc7",
        "map": "linear",
    }
    about = {
        "stage": "distance",
        "layer": "fc7",
        "map": "linear",
        "solver": "ridge",
        "seed": 0,
        "score": 0.7,
        "low": 0.6,
        "high": 0.8,
        "run": name,
        "data": "digits",
        "family": "blur",
        "n_images": 9,
        "split": "test",
    }
    with Run(root, name, config) as run:
        run.finish(
            to_frame(
                [
                    Row(**about, network="blur_3", g="network:rotation_20/seed0", metric="l2_distance"),
                    Row(**about, network="rotation_20", g="network:blur_3/seed0", metric="l2_distance"),
                ]
            )
        )
    return run.directory


MAKERS = [trained, measured, compared]


def unsealed(directory: Path) -> None:
    """As a run of before seals: its marker says no more than how many rows there are."""
    path = directory / "done.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({key: held[key] for key in ("finished", "seconds", "rows")}))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("made", MAKERS)
def test_a_run_as_it_was_finished_is_sealed_and_read_wherever_its_runs_folder_goes(tmp_path, made):
    directory = made(tmp_path / "runs")
    assert check(directory) and len(rows_of(directory)) >= 2
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    for root in (tmp_path / "elsewhere", tmp_path / "linked"):
        moved = root / directory.relative_to(tmp_path / "runs")
        assert check(moved) and rows_of(moved).equals(read_rows(moved / "rows.csv"))


def test_what_is_written_after_the_end_and_how_a_file_is_written_change_nothing(tmp_path):
    directory = trained(tmp_path)
    Run(
        tmp_path,
        "train/digits/rotation_20/seed0",
        json.loads(json.dumps(yaml.safe_load((directory / "config.yaml").read_text()))),
    ).record({"wandb": {"url": "https://wandb.example"}})
    config = yaml.safe_load((directory / "config.yaml").read_text())
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=True, default_flow_style=True))
    assert check(directory)


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("how", ["line", "digit", "out of range", "order", "gone"])
def test_changed_rows_are_named(tmp_path, made, how):
    directory = made(tmp_path)
    path = directory / "rows.csv"
    lines = path.read_text().splitlines(keepends=True)
    if how == "line":
        path.write_text("".join(lines[:-1]))
    elif how == "order":
        path.write_text("".join([lines[0], *lines[:0:-1]]))
    elif how == "gone":
        path.unlink()
    else:
        lines[-1] = re.sub(r",0\.\d", {"digit": ",0.3", "out of range": ",7.5"}[how], lines[-1], count=1)
        path.write_text("".join(lines))
    for look in (check, rows_of):
        with pytest.raises(UserError, match=r"rows\.csv.*(repeat the run)"):
            look(directory)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.yaml", "range: 20", "range: 10"),
        ("config.yaml", "seed: 0", "seed: 1"),
        ("provenance.json", "5000", "500"),
        ("provenance.json", "test", "train"),
        ("provenance.json", '"weights_sha256": "', '"weights_sha256": "0'),
        ("best.ckpt", "weights", "Weights"),
        ("confusion_test.csv", "1", "2"),
    ],
)
def test_an_edited_file_of_a_finished_run_is_named(tmp_path, name, old, new):
    directory = trained(tmp_path)
    edit(directory / name, old, new)
    with pytest.raises(UserError, match=rf"{name} is not what its run was finished with"):
        check(directory)
    if name.endswith(("yaml", "json")):
        with pytest.raises(UserError, match=rf"{name} is not what its run was finished with"):
            rows_of(directory)


@pytest.mark.parametrize("old", ['"rows": 2', '"seconds": ', '"run": "train', '"rows.csv": "', '"finished": "2'])
def test_an_edited_marker_is_named(tmp_path, old):
    directory = trained(tmp_path)
    edit(directory / "done.json", old, old[:-1] + ("3" if old[-1] != '"' else '"f'))
    with pytest.raises(UserError, match=r"done\.json is damaged"):
        check(directory)


@pytest.mark.parametrize("content", ["", "7", "[1]", "{", '{"seal": 3}', "\x00"])
def test_a_marker_that_is_none_is_named(tmp_path, content):
    directory = trained(tmp_path)
    (directory / "done.json").write_text(content)
    with pytest.raises(UserError, match=r"done\.json is damaged"):
        rows_of(directory)


@pytest.mark.parametrize("made", [trained, measured])
@pytest.mark.parametrize("name", ["rows.csv", "config.yaml", "done.json", "best.ckpt", None])
@pytest.mark.parametrize("sealed", [True, False])
def test_what_is_exchanged_between_two_runs_is_named(tmp_path, made, name, sealed):
    one, other = made(tmp_path), made(tmp_path, "rotation_10")
    if not sealed:
        unsealed(one)
        unsealed(other)
    if name is None:
        one.rename(tmp_path / "aside")
        other.rename(one)
        (tmp_path / "aside").rename(other)
    elif (one / name).exists():
        content = (one / name).read_bytes()
        (one / name).write_bytes((other / name).read_bytes())
        (other / name).write_bytes(content)
    for directory in (one, other):
        if name == "best.ckpt" or (name == "done.json" and not sealed):
            if sealed and made is trained:
                with pytest.raises(UserError, match=r"best\.ckpt"):
                    check(directory)
            continue  # an unverified run's weights are compared with its provenance where they are loaded
        with pytest.raises(UserError):
            rows_of(directory)


@pytest.mark.parametrize("made", MAKERS)
def test_a_copied_run_is_refused_by_its_name(tmp_path, made):
    directory = made(tmp_path)
    copy = directory.with_name("copy")
    shutil.copytree(directory, copy)
    with pytest.raises(UserError, match=re.escape(f"{copy} holds the run {directory.relative_to(tmp_path)},")):
        check(copy)
    unsealed(copy)
    with pytest.raises(UserError, match="rows of another run, or a run that was renamed"):
        rows_of(copy)


@pytest.mark.parametrize("made", MAKERS)
def test_a_run_of_before_seals_is_unverified_until_it_is_sealed(tmp_path, made):
    directory = made(tmp_path)
    unsealed(directory)
    assert not check(directory) and len(rows_of(directory)) >= 2
    seal(directory)
    assert check(directory)
    before = (directory / "done.json").read_bytes()
    seal(directory)
    assert (directory / "done.json").read_bytes() == before
    edit(directory / "rows.csv", "digits", "letters")
    with pytest.raises(UserError, match=r"rows\.csv"):
        seal(directory)


def test_what_cannot_be_right_is_not_sealed(tmp_path):
    directory = trained(tmp_path)
    unsealed(directory)
    edit(directory / "best.ckpt", "weights", "Weights")
    with pytest.raises(UserError, match=r"best\.ckpt is not what its run was finished with \(provenance\.json\)"):
        seal(directory)
    text = (directory / "rows.csv").read_text()
    (directory / "rows.csv").write_text("".join(text.splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="holds 1 rows, and its run was finished with 2"):
        seal(directory)
    assert "seal" not in json.loads((directory / "done.json").read_text())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("score", 7.5),
        ("score", -0.1),
        ("score", math.nan),
        ("score", math.inf),
        ("low", 0.3),
        ("high", 0.24),
        ("low", math.nan),
        ("n_images", 0),
        ("seed", -1),
        ("status", "fine"),
        ("status", "diverged"),
        ("stage", "guess"),
        ("value", -math.inf),
    ],
)
def test_a_value_that_no_measurement_gives_is_named(tmp_path, column, value):
    good = row("train/digits/a/seed0")
    check_values(tmp_path, to_frame([good]))
    with pytest.raises(UserError, match=r"is damaged: \w+ is .* where .* is expected"):
        check_values(tmp_path, to_frame([good]).assign(**{column: value}))


@pytest.mark.parametrize(
    ("metric", "good", "bad"),
    [
        ("l2_distance", 3.5, -0.01),
        ("l2_distance_mean", 3.5, -0.01),
        ("accuracy", 1.0, 1.01),
        ("cka", -0.2, 1.1),
        ("procrustes", 1.4142, 1.42),
        ("r2", -30.0, 1.01),
        ("error_rate", 0.0, 1.0001),
    ],
)
def test_every_metric_has_its_range(tmp_path, metric, good, bad):
    none = {"low": math.nan, "high": math.nan, "metric": metric}
    check_values(tmp_path, to_frame([row("train/digits/a/seed0", score=good, **none)]))
    with pytest.raises(UserError, match=rf"score is {bad:g} where .* \({metric}, 1 of 1 rows\)"):
        check_values(tmp_path, to_frame([row("train/digits/a/seed0", score=bad, **none)]))


def test_a_difference_may_be_negative_and_a_row_without_a_score_is_fine(tmp_path):
    none = {"score": math.nan, "low": math.nan, "high": math.nan}
    check_values(
        tmp_path,
        to_frame(
            [
                row("train/digits/a/seed0", metric="l2_distance_difference", score=-0.2, low=-0.3, high=0.1),
                *(
                    row("train/digits/a/seed0", status=status, **none)
                    for status in ("diverged", "not_finite", "undefined")
                ),
            ]
        ),
    )
    write_rows(tmp_path / "rows.csv", to_frame([]))
    check_values(tmp_path, read_rows(tmp_path / "rows.csv"))


@pytest.mark.parametrize(
    ("made", "old", "new", "said"),
    [
        (trained, "rotation_20,rotation", "rotation_20,blur", "family is 'blur'"),
        (trained, ",20,0,", ",10,0,", "range is '10'"),
        (trained, ",20,0,", ",20,1,", "seed is 1"),
        (trained, "digits", "letters", "data is 'letters'"),
        (measured, "fc7", "fc6", "layer is 'fc6'"),
        (measured, "rotation:20", "blur:20", "g is 'blur:20'"),
        (measured, ",test,", ",train,", "split is 'train'"),
        (measured, "error_rate", "accuracy", "metric is 'accuracy'"),
        (measured, "residual,", "mlp,", "map is 'mlp'"),
        (compared, "blur_3,blur", "blur_2,blur", "network is 'blur_2'"),
        (compared, "network:blur_3", "network:blur_2", "g is 'network:blur_2"),
    ],
)
def test_a_row_that_its_configuration_does_not_know_is_named_though_nothing_is_sealed(tmp_path, made, old, new, said):
    directory = made(tmp_path)
    unsealed(directory)
    edit(directory / "rows.csv", old, new)
    with pytest.raises(UserError, match=said):
        rows_of(directory)


def test_a_finished_run_that_was_changed_is_not_called_finished(tmp_path):
    directory = trained(tmp_path)
    config = yaml.safe_load((directory / "config.yaml").read_text())
    edit(directory / "provenance.json", "5000", "500")
    with pytest.raises(UserError, match=r"provenance\.json is not what its run was finished with"):
        Run(tmp_path, "train/digits/rotation_20/seed0", config)


@pytest.mark.parametrize("sealed", [True, False])
def test_weights_that_are_not_those_of_the_run_are_refused_before_anything_is_measured(tmp_path, sealed):
    one, other = trained(tmp_path), trained(tmp_path, "rotation_10")
    for directory in (one, other):
        assert Network(tmp_path, directory, layer="", accelerator="cpu").weights == sha256(directory / "best.ckpt")
    content = (one / "best.ckpt").read_bytes()
    (one / "best.ckpt").write_bytes((other / "best.ckpt").read_bytes())
    (other / "best.ckpt").write_bytes(content)
    for directory in (one, other):
        if not sealed:
            unsealed(directory)
        with pytest.raises(UserError, match=f"{directory / 'best.ckpt'} is not what its run was finished with"):
            Network(tmp_path, directory, layer="", accelerator="cpu")


def test_settings_that_were_edited_are_refused_before_anything_is_measured(tmp_path):
    directory = trained(tmp_path)
    edit(directory / "provenance.json", "5000", "500")
    with pytest.raises(UserError, match=r"provenance\.json is not what its run was finished with"):
        Network(tmp_path, directory, layer="", accelerator="cpu")


def test_a_finished_runs_checkpoint_is_looked_at_whoever_loads_it(tmp_path):
    from invariance.training.classifier import load_classifier

    path = trained(tmp_path) / "best.ckpt"
    edit(path, "weights", "Weights")
    with pytest.raises(UserError, match=r"best\.ckpt is not what its run was finished with .*; mend it"):
        load_classifier(path, "mend it")


def test_tables_beside_the_rows_are_looked_at_with_them_and_checkpoints_when_asked(tmp_path):
    directory = trained(tmp_path)
    (directory / "best.ckpt").write_bytes(b"others")
    assert len(rows_of(directory)) == 2  # whoever loads the network looks at it
    with pytest.raises(UserError, match=r"best\.ckpt is not what its run was finished with"):
        check(directory)
    directory = measured(tmp_path)
    (directory / "fits.csv").write_text("g,status\n20,ok\n")
    with pytest.raises(UserError, match=r"fits\.csv is not what its run was finished with"):
        rows_of(directory)


def test_a_marker_whose_seal_was_taken_out_is_damaged_and_one_of_before_is_unverified(tmp_path):
    directory = trained(tmp_path)
    held = json.loads((directory / "done.json").read_text())
    del held["seal"]
    (directory / "done.json").write_text(json.dumps(held))
    with pytest.raises(UserError, match=r"done\.json is damaged"):
        check(directory)
    unsealed(directory)
    assert not check(directory)


@pytest.mark.parametrize("text", ['"x": "\\ud800"', f'"x": {"[" * 700}{"]" * 700}'])
def test_provenance_of_odd_letters_or_nested_deeply_is_one_line(tmp_path, text):
    directory = trained(tmp_path)
    path = directory / "provenance.json"
    path.write_text(path.read_text().rstrip().removesuffix("}") + f", {text}}}")
    with pytest.raises(UserError, match=r"provenance\.json is (not what|damaged)"):
        check(directory)


@pytest.mark.parametrize("name", ["confusion_test.csv", "best.ckpt", "rows.csv"])
def test_a_file_of_a_run_that_cannot_be_read_is_named_as_such(tmp_path, name):
    directory = trained(tmp_path)
    (directory / name).unlink()
    (directory / name).mkdir()
    with pytest.raises(UserError, match=rf"{name} cannot be read \(Is a directory\); see to it"):
        check(directory)
    unsealed(directory)
    if name == "rows.csv":
        with pytest.raises(UserError, match=r"rows\.csv cannot be read \(Is a directory\); see to it"):
            rows_of(directory)


@pytest.mark.parametrize(
    "config",
    [
        "map: !!bool maybe\n",
        "map: !!timestamp x\n",
        f"map: {'[' * 60}{']' * 60}\n",
        "layer: [fc7]\n",
        "layer: {a: b}\n",
        "metrics: [[error_rate]]\n",
        "data: {fit: {split: [val]}, report: {}}\n",
        "networks: {1: 2}\n",
    ],
)
def test_rows_of_before_with_a_configuration_of_another_kind_are_refused(tmp_path, config):
    directory = measured(tmp_path)
    unsealed(directory)
    (directory / "config.yaml").write_text(config)
    with pytest.raises(UserError, match=r"is damaged.*delete (its|the run's) folder"):
        rows_of(directory)


def test_a_number_of_images_that_no_integer_holds_is_no_table(tmp_path):
    directory = trained(tmp_path)
    unsealed(directory)
    edit(directory / "rows.csv", ",359,", f",{'9' * 25},")
    with pytest.raises(UserError, match="is not a table of rows"):
        rows_of(directory)


def test_a_lock_whose_file_another_machine_deleted_is_not_there(tmp_path, monkeypatch):
    with Run(tmp_path, "train/a", {}) as run:

        def stale(descriptor):
            raise OSError(116, "Stale file handle")

        monkeypatch.setattr("invariance.runs.locks.os.fstat", stale)
        with pytest.raises(UserError, match="deleted or replaced"):
            run.require_here()
        monkeypatch.undo()
