"""Run directories: whole files, one identity, rows that read back to the bit."""

import math
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from invariance.errors import UserError
from invariance.runs.files import atomic_path, write_text
from invariance.runs.find import find_runs, walk
from invariance.runs.rows import COLUMNS, Row, read_rows, to_frame, write_rows
from invariance.runs.run import Run, read_config, read_provenance


def row(**changes):
    base = dict(
        stage="train",
        data="digits",
        network="rotation_20",
        family="rotation",
        range="20",
        seed=0,
        split="test",
        metric="error_rate",
        score=0.1 + 0.2,
        n_images=359,
        run="train/digits/rotation_20/seed0",
    )
    return Row(**(base | changes))


def test_rows_read_back_to_the_bit(tmp_path):
    rows = [
        row(),
        row(score=math.nan, status="diverged", range="", g="mirror:none", value=1 / 3),
        row(network="NA", map="null"),
    ]
    write_rows(tmp_path / "rows.csv", to_frame(rows))
    table = read_rows(tmp_path / "rows.csv")
    assert list(table.columns) == COLUMNS
    assert table["score"].tolist()[0] == 0.1 + 0.2
    assert table["value"].tolist()[1] == 1 / 3
    assert math.isnan(table["score"].tolist()[1])
    assert table["range"].tolist() == ["20", "", "20"]
    assert table["network"].tolist()[2] == "NA" and table["map"].tolist()[2] == "null"
    write_rows(tmp_path / "again.csv", table)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\x00\x01", "stage,data\n"])
def test_a_file_that_is_no_table_of_rows_is_refused_by_name(tmp_path, text):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(UserError, match="rows.csv is not a table of rows"):
        read_rows(tmp_path / "rows.csv")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    code = f"""
        import os, signal
        from pathlib import Path
        from invariance.runs.files import atomic_path
        with atomic_path(Path({str(path)!r})) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)])
    assert result.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_full_disk_is_one_clear_line(tmp_path):
    # a file-size limit stands for the disk: the same refusal, at a moment of our choosing
    code = f"""
        import resource, signal
        from pathlib import Path
        from invariance.errors import UserError
        from invariance.runs.files import write_text
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_text(Path({str(tmp_path / "file")!r}), "x" * 5000)
        except UserError as error:
            print(error)
    """
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    ).stdout
    assert "cannot write" in said and "larger than allowed" in said
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_must_be_is_one_clear_line(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        write_text(tmp_path / "taken" / "file", "x")


CONFIG = {"name": "rotation_20", "transform": {"range": 20, "angles": [1.5, 2]}, "nan": math.nan}


def test_a_run_is_done_only_when_finished_and_then_stays_so(tmp_path):
    run = Run(tmp_path, "train/a", CONFIG)
    assert not run.done
    with run:
        assert not run.done
        run.finish(to_frame([row(run="train/a")]))
    again = Run(tmp_path, "train/a", CONFIG)
    assert again.done
    assert again.rows()["score"].tolist() == [0.1 + 0.2]


def test_another_configuration_is_refused_naming_the_key(tmp_path):
    with Run(tmp_path, "train/a", CONFIG) as run:
        (run.directory / "last.ckpt").write_text("work")
    other = CONFIG | {"transform": {"range": 10, "angles": [1.5, 2]}}
    with pytest.raises(UserError, match=r"transform\.range is 20 there and 10 here"):
        Run(tmp_path, "train/a", other)
    with pytest.raises(UserError, match=r"extra is nothing there and 1 here"):
        Run(tmp_path, "train/a", CONFIG | {"extra": 1})


def test_a_directory_without_work_in_it_becomes_another_configurations(tmp_path):
    with Run(tmp_path, "train/a", CONFIG) as run:
        run.record({"weights": "abc"})
    with Run(tmp_path, "train/a", CONFIG | {"extra": 1}) as run:
        assert read_config(run.directory)["extra"] == 1 and "weights" not in read_provenance(run.directory)
        run.finish(to_frame([row()]))
    with pytest.raises(UserError, match=r"extra is 1 there and nothing here"):
        Run(tmp_path, "train/a", CONFIG)
    with Run(tmp_path, "measure/a", CONFIG, progress=("parts",)) as run:
        (run.directory / "parts").mkdir()
    with pytest.raises(UserError, match=r"extra is nothing there"):
        Run(tmp_path, "measure/a", CONFIG | {"extra": 1}, progress=("parts",))


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"{a: [", b"\xff\xfe\x00", b"7"])
@pytest.mark.parametrize(("name", "read"), [("config.yaml", read_config), ("provenance.json", read_provenance)])
def test_damaged_facts_of_a_run_are_one_line(tmp_path, content, name, read):
    with Run(tmp_path, "a", CONFIG) as run:
        (run.directory / "last.ckpt").write_text("work")
    path = tmp_path / "a" / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name} .*; delete its folder and repeat"):
        read(tmp_path / "a")
    path.unlink()
    with pytest.raises(UserError, match="is absent"):
        read(tmp_path / "a")
    path.mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "a")


@pytest.mark.parametrize(
    ("old", "new"), [(",359,", ",many,"), (",359,", ",359.5,"), ("0.25", "low"), (",ok,", ","), (",ok,", ",ok,ok,")]
)
def test_a_row_that_is_none_is_refused(tmp_path, old, new):
    path = tmp_path / "rows.csv"
    write_rows(path, to_frame([row(score=0.25), row(score=0.25)]))
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match="rows.csv is not a table of rows"):
        read_rows(path)


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_rows_that_are_cut_off_in_their_last_field_are_refused(tmp_path, cut):
    path = tmp_path / "rows.csv"
    row = Row(
        stage="train",
        data="d",
        network="n",
        family="f",
        seed=0,
        split="s",
        metric="m",
        score=0.5,
        n_images=1,
        run="train/d/n/seed0",
    )
    write_rows(path, to_frame([row]))
    assert len(read_rows(path)) == 1
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"rows.csv is not a table of rows \(its last line is cut off\)"):
        read_rows(path)


def test_two_processes_never_work_in_one_run(tmp_path):
    code = f"""
        from pathlib import Path
        from invariance.errors import UserError
        from invariance.runs.run import Run
        try:
            with Run(Path({str(tmp_path)!r}), "train/a", {{"name": "a"}}):
                print("entered")
        except UserError as error:
            print(error)
    """
    with Run(tmp_path, "train/a", {"name": "a"}):
        said = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
        assert f"worked on by process {os.getpid()} on " in said.stdout
    said = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "entered"


def test_provenance_names_versions_and_command(tmp_path):
    import json

    with Run(tmp_path, "train/a", CONFIG) as run:
        run.record({"weights": "abc"})
    held = json.loads((tmp_path / "train/a/provenance.json").read_text())
    assert held["weights"] == "abc" and held["versions"]["torch"] and held["cpus"] == os.cpu_count()


def finished(root: Path, name: str, done: bool = True) -> None:
    with Run(root, name, {"name": name}) as run:
        if done:
            run.finish(to_frame([row()]))


def test_what_vanishes_while_runs_are_looked_for_is_left_out(tmp_path, monkeypatch):
    for name in ("train/a", "train/b", "finetune/a", "finetune/a/rotation"):
        finished(tmp_path, name)
    for folder in (".sweeps/train", "train/a/wandb/run-7", "train/a/wandb/offline-run-7/files"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.yaml").touch()
    found = lambda: [path.relative_to(tmp_path).as_posix() for path in walk(tmp_path).runs]  # noqa: E731
    assert found() == ["finetune/a", "finetune/a/rotation", "train/a", "train/b"]
    real = os.scandir

    def vanish(path):
        if Path(path).name == "b":
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", vanish)
    assert found() == ["finetune/a", "finetune/a/rotation", "train/a"]


def test_half_written_files_of_two_machines_have_two_names(tmp_path, monkeypatch):
    names = set()
    for host in ("one", "two"):  # containers, whose processes are numbered alike
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        with atomic_path(tmp_path / "file") as temporary:
            temporary.touch()
            names.add(temporary.name)
    assert len(names) == 2


def test_runs_are_found_by_part_path_and_pattern(tmp_path):
    for name in (
        "digits/rotation_20/seed0",
        "digits/rotation_20/seed1",
        "digits/baseline/seed0",
        "cifar10/baseline/seed0",
    ):
        finished(tmp_path, name)
    finished(tmp_path, "digits/blur_3/seed0", done=False)

    def found(patterns):
        return [path.relative_to(tmp_path).as_posix() for path in find_runs(tmp_path, patterns)]

    assert found("*") == [
        "cifar10/baseline/seed0",
        "digits/baseline/seed0",
        "digits/rotation_20/seed0",
        "digits/rotation_20/seed1",
    ]
    assert found("rotation_20") == ["digits/rotation_20/seed0", "digits/rotation_20/seed1"]
    assert found("digits") == ["digits/baseline/seed0", "digits/rotation_20/seed0", "digits/rotation_20/seed1"]
    assert found(["cifar10", "*/seed1"]) == ["cifar10/baseline/seed0", "digits/rotation_20/seed1"]
    assert found(str(tmp_path / "digits/baseline/seed0")) == ["digits/baseline/seed0"]
    with pytest.raises(UserError, match="did you mean 'rotation_20'"):
        find_runs(tmp_path, "rotaton_20")
    with pytest.raises(UserError, match="digits/blur_3/seed0.* is not finished"):
        find_runs(tmp_path, "blur_3")
    with pytest.raises(UserError, match="run invariance-train first"):
        find_runs(tmp_path / "nowhere", "*")


WRITES = {
    "record": lambda run: run.record({"weights": "abc"}),
    "note": lambda run: run.note(2, 2, "g"),
    "finish": lambda run: run.finish(to_frame([row(run="train/a")])),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("how", ["deleted", "replaced", "taken"])
def test_a_process_whose_folder_went_writes_nothing_into_the_next(tmp_path, write, how):
    folder = tmp_path / "train/a"
    with Run(tmp_path, "train/a", CONFIG) as run:
        run.note(0, 2, "g")
        (tmp_path / "train").rename(tmp_path / "aside")
        if how != "deleted":
            with Run(tmp_path, "train/a", {"name": "next"}) as following:
                if how == "taken":
                    following.finish(to_frame([row(run="train/a", score=0.5)]))
        before = {path.name: path.read_bytes() for path in folder.glob("*")}
        with pytest.raises(UserError, match=f"{folder} was deleted or replaced while this process worked in it"):
            WRITES[write](run)
        assert {path.name: path.read_bytes() for path in folder.glob("*")} == before


def test_beside_a_living_process_nobody_is_told_to_delete(tmp_path):
    code = f"""
        import sys
        from pathlib import Path
        from invariance.runs.run import Run
        with Run(Path({str(tmp_path)!r}), "train/a", {{"name": "a"}}) as run:
            (run.directory / "last.ckpt").write_text("work")
            print("in", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(UserError, match=f"and process {other.pid} on .* works there: name is a") as caught:
            Run(tmp_path, "train/a", {"name": "b"})
        assert "delete" not in str(caught.value)
        (tmp_path / "train/a/config.yaml").write_text("[")
        with pytest.raises(UserError, match=f"damaged; process {other.pid} on .* works there: wait for it to end"):
            Run(tmp_path, "train/a", {"name": "a"})
        other.stdin.close()
    with pytest.raises(UserError, match="is damaged; delete its folder"):
        Run(tmp_path, "train/a", {"name": "a"})
