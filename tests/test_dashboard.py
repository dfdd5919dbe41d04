"""The workspace and the report for W&B: what they refer to is logged, what they show is the local report.

Every stage is run for moments, offline, and its W&B run read back; no server is asked. What the server would get is
looked at as wandb-workspaces builds it, and a small stand-in for the server sees what is sent twice.
"""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

pytest.importorskip("wandb_workspaces.workspaces")

from invariance.errors import UserError
from invariance.experiments.dashboard import dashboard
from invariance.maps.spec import MapSpec
from invariance.reporting.contents import Item, read_contents
from invariance.reporting.workspace import build, send
from invariance.runs.rows import read_rows
from invariance.runs.run import read_provenance
from invariance.runs.summary import of_distances, of_measurement, way
from invariance.runs.wandb import read_link
from tests.conftest import draw_nothing

MEDIA = {"rows", "val/confusion_table", "test/confusion_table"}


@pytest.fixture(scope="module")
def logged(tmp_path_factory, compose):
    """A folder with a few tiny networks trained, measured, compared, finetuned and reported on, W&B offline."""
    from invariance.experiments.distance import distance
    from invariance.experiments.finetune import finetune
    from invariance.experiments.measure import measure
    from invariance.experiments.report import report
    from invariance.experiments.train import train

    folder = tmp_path_factory.mktemp("logged")
    places = [f"runs={folder}/runs", f"prepared={folder}/prepared", "progress=false", "trainer=cpu"]
    places.append("logger.mode=offline")
    quick = ["model=tiny", "recipe=smoke", "recipe.updates=4", "recipe.val_every=2", "recipe.step=3"]
    fits = ["fit={images: 100}", "solver.online_sgd.epochs=1", "solver.online_sgd.rate=0.005"]
    fits.append("solver.ridge.strengths=[0.1]")
    train(compose("train", *places, *quick))
    train(compose("train", *places, *quick, "seed=1"))
    train(compose("train", *places, *quick, "transform=rotation", "range=20", "logger.tags=[trial]"))
    measure(compose("measure", *places, *fits, "networks=rotation_20", "grid={rotation: {angles: [-40, -10, 10, 40]}}"))
    distance(compose("distance", *places, *fits, f"features={folder}/features"))
    joint = ["recipe=finetune_smoke", "recipe.updates=2", "recipe.val_every=1", "recipe.step=1"]
    joint.append("grids=[mirror]")
    finetune(compose("finetune", *places, *fits, *joint, "networks=rotation_20"))
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        report(compose("report", f"runs={folder}/runs", f"out={folder}/report", "logger.mode=offline"))
    return folder


@pytest.fixture(scope="module")
def seen(logged):
    """The W&B runs of that folder by the run directory they are of: run, keys of the history, summary."""
    found = {}
    for log in sorted(logged.glob("**/wandb/offline-run-*/*.wandb")):
        said = subprocess.run(
            [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", log.parent],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        held = [json.loads(line) for line in said.splitlines()]
        found[log.parents[2].relative_to(logged).as_posix()] = SimpleNamespace(
            run=next(one["run"] for one in held if one["type"] == "run"),
            history={key for one in held if one["type"] == "history" for key in one["history"]["item"]},
            summary={
                key: value
                for one in held
                if one["type"] == "summary"
                for key, value in one["summary"]["update"].items()
            },
        )
    return found


TRAINED, MEASURED = "runs/train/digits/rotation_20/seed0", "runs/measure/digits/rotation_20/seed0/rotation"
BEFORE = "runs/finetune/digits/rotation_20/seed0/rotation_G"
JOINT = "runs/finetune/digits/rotation_20+joint_0.3/seed0"
AFTER = f"{JOINT}/rotation_G"


@pytest.mark.parametrize(
    ("place", "stage", "name", "tags", "config"),
    [
        (
            TRAINED,
            "train",
            "digits/rotation_20/seed0",
            ["digits", "rotation", "rotation_20", "seed0", "trial"],
            {"network": "rotation_20", "family": "rotation", "range": 20, "seed": 0, "curve": "digits rotation"},
        ),
        (
            "runs/train/digits/baseline/seed1",
            "train",
            "digits/baseline/seed1",
            ["digits", "baseline", "seed1"],
            {"network": "baseline", "family": "baseline", "range": None, "seed": 1},
        ),
        (
            MEASURED,
            "measure",
            "digits/rotation_20/seed0/rotation",
            ["digits", "rotation", "rotation_20", "seed0", "online_sgd", "ridge"],
            {"network": "rotation_20", "grid": "rotation", "layer": "relu7", "solvers": ["online_sgd", "ridge"]},
        ),
        ("runs/distance/digits", "distance", "digits/3 networks", ["digits", "online_sgd", "ridge"], {"networks": 3}),
        (
            BEFORE,
            "finetune",
            "digits/rotation_20/seed0/rotation_G before",
            ["digits", "rotation", "rotation_20", "rotation_G", "before", "seed0", "online_sgd", "ridge"],
            {"phase": "before", "network": "rotation_20"},
        ),
        (
            JOINT,
            "finetune",
            "digits/rotation_20+joint_0.3/seed0",
            ["digits", "rotation", "rotation_20+joint_0.3", "rotation_G", "joint", "seed0"],
            {"phase": "joint", "lambda3": 0.3, "curve": "digits rotation finetuned"},
        ),
        (
            AFTER,
            "finetune",
            "digits/rotation_20+joint_0.3/seed0/rotation_G after",
            [*"digits rotation rotation_20+joint_0.3 rotation_G after seed0 online_sgd ridge joint".split()],
            {"phase": "after", "network": "rotation_20+joint_0.3"},
        ),
    ],
)
def test_every_stage_is_one_run_with_its_group_job_type_tags_and_flat_keys(seen, place, stage, name, tags, config):
    run = seen[place].run
    assert run["run_group"] == "digits" and run["job_type"] == stage and run["display_name"] == name
    assert sorted(run["tags"]) == sorted(tags)
    held = run["config"]["update"]
    assert held["stage"] == stage and held["data"] == "digits" and isinstance(held["identity"], dict)
    assert {key: held.get(key) for key in config} == config


def test_the_summary_of_a_training_is_what_its_rows_say(logged, seen):
    rows = read_rows(logged / TRAINED / "rows.csv")
    [error] = rows.loc[rows["split"] == "test", "score"]
    assert seen[TRAINED].summary["report/accuracy"] == pytest.approx(1 - error)
    assert seen[TRAINED].summary["test/accuracy"] == pytest.approx(1 - error)
    assert {"train/loss", "val/accuracy", "val/loss", "trainer/global_step"} <= seen[TRAINED].history


def test_the_summary_of_a_measurement_is_what_its_rows_say(logged, seen):
    points = json.loads((logged / MEASURED / "grid.json").read_text())["points"]
    inside = [f"rotation:{one['label']}" for one in points if one["covered"] and one["label"] != "untouched"]
    beyond = [f"rotation:{one['label']}" for one in points if not one["covered"]]
    assert len(inside) == 2 and len(beyond) == 2
    for run, name in (("identity", "invariance"), ("residual_ridge", "equivariance_ridge")):
        rows = read_rows(logged / MEASURED / run / "rows.csv")
        rows = rows[rows["fit_classes"].isin(["", "all"])]
        rows = rows[(rows["split"] == "test") & (rows["metric"] == "error_rate")].set_index("g")["score"]
        for part, labels in (("inside", inside), ("beyond", beyond), ("all", inside + beyond)):
            found = seen[MEASURED].summary[f"measure/{name}/{part}/accuracy"]
            assert found == pytest.approx(1 - rows[labels].mean())
        untouched = seen[MEASURED].summary[f"measure/{name}/untouched/accuracy"]
        assert untouched == pytest.approx(1 - rows["rotation:untouched"])


def test_the_summary_of_distances_is_what_their_rows_say(logged, seen):
    paths = (logged / "runs/distance/digits").glob("*/linear_ridge/rows.csv")
    rows = pd.concat([read_rows(path) for path in paths], ignore_index=True)
    rows = rows[(rows["metric"] == "l2_distance_mean") & (rows["split"] == "test")]
    assert len(rows) == 3
    both = rows[(rows["network"] == "baseline") & (rows["g"].str.startswith("network:baseline/"))]
    held, others = seen["runs/distance/digits"].summary, rows.drop(both.index)
    assert held["distance/ridge/same_family"] == pytest.approx(both["score"].item())
    assert held["distance/ridge/all"] == pytest.approx(rows["score"].mean())
    assert held["distance/ridge/other_families"] == pytest.approx(others["score"].mean())


def test_before_and_after_a_finetuning_stand_side_by_side(logged, seen):
    before, after = seen[BEFORE].summary, seen[AFTER].summary
    key = "equivariance_ridge/all/accuracy"
    assert after[f"finetune/before/{key}"] == before[f"finetune/before/{key}"]
    assert f"finetune/after/{key}" in after and f"finetune/after/{key}" not in before
    assert "finetune/after/equivariance_joint/all/accuracy" in after  # the maps that were learned along


def test_every_run_of_every_stage_tells_where_wandb_has_it(logged):
    finished = sorted(logged.glob("runs/**/done.json"))
    assert len(finished) > 15
    for done in finished:
        held = read_provenance(done.parent)["wandb"]
        assert list((done.parent / held["offline"]).glob("*.wandb")), done.parent


def panels(spec: dict) -> list[dict]:
    """Every panel of a workspace's or a report's spec."""
    if isinstance(spec, dict):
        own = [spec] if "viewType" in spec and "config" in spec else []
        return own + [panel for value in spec.values() for panel in panels(value)]
    return [panel for value in spec for panel in panels(value)] if isinstance(spec, list) else []


def keys(panel: dict) -> tuple[set[str], set[str], set[str]]:
    """What a panel refers to: history or summary, configuration, media."""
    config = panel["config"]
    named = {*config.get("metrics", ()), *(config[axis] for axis in ("xAxis", "yAxis", "zAxis") if axis in config)}
    of_config = {name.removeprefix("config:") for name in named if name.startswith("config:")}
    if "groupBy" in config:
        of_config.add(config["groupBy"])
    values = {name.removeprefix("summary:") for name in named if not name.startswith("config:")}
    return values, {name.removesuffix(".value") for name in of_config}, set(config.get("mediaKeys", ()))


def test_every_panel_refers_to_what_is_really_logged(logged, seen, compose, tmp_path):
    dashboard(compose("dashboard", f"report={logged}/report", "dry_run=true", f"save={tmp_path}/spec.json"))
    specs = json.loads((tmp_path / "spec.json").read_text())
    values = set().union(*(one.history | set(one.summary) for one in seen.values()))
    configs = set().union(*(one.run["config"]["update"] for one in seen.values()))
    pictures = {key.removesuffix("._type") for key in seen["report"].summary if key.endswith("._type")} - MEDIA
    shown: set[str] = set()
    for which in ("workspace", "report"):
        found = panels(specs[which])
        assert len(found) > 20
        for panel in found:
            of_values, of_config, media = keys(panel)
            assert of_values or media, panel
            assert of_values <= values, panel
            assert of_config <= configs, panel
            shown |= media
    assert shown == pictures  # every figure of the report, and none that is not there
    columns = specs["workspace"]["spec"]["section"]["runSets"][0]["runFeed"]["columnOrder"]
    for column in columns:
        section, _, name = column.partition(":")
        assert section == "run" or name in values or name.removesuffix(".value") in configs, column


def test_the_report_shows_the_local_one_in_its_order_then_live_panels(logged, compose, tmp_path):
    save = tmp_path / "spec.json"
    dashboard(compose("dashboard", f"report={logged}/report", "dry_run=true", f"save={save}", "name=Ours: all"))
    specs = json.loads(save.read_text())
    assert specs["workspace"]["displayName"] == specs["report"]["displayName"] == "Ours: all"
    blocks = specs["report"]["spec"]["blocks"]
    contents = read_contents(logged / "report")
    tables = [item.text for item in contents if item.kind == "table"]
    assert [one["content"] for one in blocks if one["type"] == "markdown-block"] == tables
    assert any("| rotation_20 | 0 |" in table for table in tables)  # Table 3
    shown = [key for one in blocks for panel in panels(one) for key in panel["config"].get("mediaKeys", ())]
    figures = [item for item in contents if item.kind == "figure"]
    assert shown == [item.key for item in figures]
    text = json.dumps(blocks, ensure_ascii=False)
    assert all(json.dumps(item.text, ensure_ascii=False) in text for item in figures)
    run = read_link(logged / "report")["id"]
    filters = [one["metadata"]["runSets"][0]["filters"]["filters"] for one in blocks if one["type"] == "panel-grid"]
    assert [one[0]["value"] for one in filters[: len(shown)]] == [run] * len(shown)
    live = [{(one["key"]["name"], one["value"]) for one in of_grid} for of_grid in filters[len(shown) :]]
    stages = ("train", "measure", "distance", "finetune")
    expected = [{("data", "digits"), ("jobType", stage)} for stage in stages]
    assert [one for k, one in enumerate(live) if k == 0 or one != live[k - 1]] == expected


def test_contents_are_those_of_the_page_and_folded_tables_stay_there(logged):
    contents = read_contents(logged / "report")
    names = [item.name for item in contents if item.kind == "figure"]
    page = (logged / "report/index.html").read_text()
    unfolded = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    assert set(names) == set(re.findall(r'href="figures/([^"/]+)\.png"', unfolded)) and len(names) > 8
    tables = {item.name for item in contents if item.kind == "table"}
    assert "accuracy" in tables and tables < {path.stem for path in (logged / "report/tables").glob("*.md")}
    titles = [item.text for item in contents if item.kind == "heading"]
    places = [page.index(f">{title.replace('&', '&amp;')}</h") for title in titles]
    assert places == sorted(places) and titles[0] == "Accuracy on untouched images"
    for item, following in zip(contents, [*contents[1:], None], strict=True):
        if item.kind == "heading":  # none is left standing alone
            assert following is not None and (following.kind != "heading" or following.level > item.level)
    assert any(item.kind == "paragraph" and "φ ends at relu7" in item.text for item in contents)


class Server:
    """A stand-in for W&B's server: it keeps views, by id, and knows the queries that the library sends."""

    app_url = "https://wandb.example"

    def __init__(self) -> None:
        self.views: dict[str, dict] = {}

    def execute_graphql(self, query: str, variables: dict) -> dict:
        if "upsertView" in query:
            key = variables.get("id") or f"view{len(self.views)}"
            assert key in self.views or not variables.get("id"), "an id that was never given out"
            taken = [one["name"] for other, one in self.views.items() if other != key]
            assert variables["name"] not in taken or variables["type"] == "runs"
            self.views[key] = {**self.views.get(key, {}), **variables, "id": key}
            view = {name: self.views[key][name] for name in ("id", "name", "displayName", "description", "spec")}
            owner = {"entityName": variables["entityName"], "name": variables["projectName"]}
            return {"upsertView": {"view": {**view, "project": owner}, "inserted": True}}
        assert "allViews" in query
        found = [one for one in self.views.values() if one["name"] == variables["viewName"]]
        return {"project": {"allViews": {"edges": [{"node": one} for one in found]}}}

    def api(self) -> SimpleNamespace:
        reports = [
            SimpleNamespace(id=key, display_name=one["displayName"])
            for key, one in self.views.items()
            if one["type"] == "runs"
        ]
        return SimpleNamespace(
            _service_api=self,
            default_entity="me",
            reports=lambda path: reports,
            projects=lambda entity: [SimpleNamespace(name="invariance")],
        )


def test_sent_again_under_the_same_name_it_replaces_and_under_another_it_adds(logged, monkeypatch):
    import wandb

    server = Server()
    monkeypatch.setattr(wandb, "Api", server.api)
    contents, rows = read_contents(logged / "report"), read_rows(logged / "report/rows.csv")

    def sent(name: str, items: list) -> list[str]:
        return send(build(items, rows, name=name, project="invariance", entity="me"), server.app_url)

    first = sent("Ours", contents)
    assert len(server.views) == 2 and all(url.startswith("https://wandb.example/me/invariance") for url in first)
    again = sent("Ours", [Item("heading", level=2, text="Nothing else")])
    assert again == first and len(server.views) == 2
    [report] = [one for one in server.views.values() if one["type"] == "runs"]
    assert "Nothing else" in report["spec"] and "accuracy" not in json.loads(report["spec"])["blocks"][2]
    assert set(sent("Theirs", contents)).isdisjoint(first) and len(server.views) == 4


def test_what_the_server_refuses_is_one_line(logged, monkeypatch):
    import wandb

    server = Server()
    monkeypatch.setattr(wandb, "Api", server.api)
    monkeypatch.setattr(server, "execute_graphql", lambda *_, **__: 1 / 0)
    board = build(
        [Item("heading", level=2, text="a")], read_rows(logged / "report/rows.csv"), name="a", project="p", entity="me"
    )
    with pytest.raises(UserError, match=r"^W&B refused \(ZeroDivisionError: division by zero\); see to it and repeat$"):
        send(board, server.app_url)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report=nowhere"], "there is no report in nowhere: run invariance-report first"),
        (["dataset=digit"], "dataset=digit: the report has no row of it; did you mean 'digits'"),
        (["name=''"], "name=''"),
        (["name='a/b'"], "name='a/b': give up to 100 letters"),
        (["dry_run=maybe"], "dry_run='maybe': give true or false"),
        (["logger=csv"], "leave out logger=csv"),
        (["logger.mode=offline"], "W&B is offline, as asked: set logger.mode=online; dry_run=true writes"),
        (["save=null"], "save=None: give a path"),
    ],
)
def test_mistakes_are_refused_in_one_line(logged, compose, tmp_path, arguments, said):
    given = {"report": f"report={logged}/report", "save": f"save={tmp_path}/spec.json"}
    given |= {argument.split("=")[0]: argument for argument in arguments}
    with pytest.raises(UserError) as error:
        dashboard(compose("dashboard", *given.values()))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "spec.json").exists()


def test_without_a_login_it_says_how_to_log_in_or_to_look(logged, compose, monkeypatch):
    import wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    with pytest.raises(UserError, match="^no login: run wandb login; dry_run=true writes what would be sent to a"):
        dashboard(compose("dashboard", f"report={logged}/report"))


def test_a_project_without_runs_is_refused(logged, compose, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(default_entity="me", runs=lambda *_, **__: iter(())))
    with pytest.raises(UserError, match="^me/invariance has no runs: upload those there are with wandb sync"):
        dashboard(compose("dashboard", f"report={logged}/report", "logger.mode=online"))


def test_without_the_library_it_says_how_to_install_it(logged, compose, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UserError, match=r"needs wandb-workspaces .*pip install 'invariance\[dashboard\]'$"):
        dashboard(compose("dashboard", f"report={logged}/report", "dry_run=true"))


def test_a_figure_that_is_gone_is_said_and_not_left_out(logged, tmp_path):
    shutil.copytree(logged / "report", tmp_path / "report", ignore=shutil.ignore_patterns("wandb"))
    gone = next((tmp_path / "report/figures").glob("*.png"))
    gone.unlink()
    with pytest.raises(UserError, match=f"{gone.name} is missing, which the report shows: run invariance-report again"):
        read_contents(tmp_path / "report")


def frame(**columns: list) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_a_mean_with_any_number_withheld_is_not_given():
    rows = frame(
        g=["r:untouched", "r:5", "r:-5", "r:40"],
        split=["test"] * 4,
        metric=["error_rate"] * 4,
        fit_classes=[""] * 4,
        score=[0.1, 0.2, 0.4, math.nan],
    )
    other = rows.assign(split="val", score=0.9)
    covered = {"untouched": True, "5": True, "-5": True, "40": False}
    found = of_measurement({"invariance": pd.concat([other, rows])}, covered, "test", "measure")
    assert found == {
        "measure/invariance/withheld": 1,
        "measure/invariance/untouched/accuracy": pytest.approx(0.9),
        "measure/invariance/inside/accuracy": pytest.approx(0.7),
    }
    assert "measure/invariance/all/accuracy" not in of_measurement({"invariance": rows[:3]}, covered, "test", "measure")


def test_pairs_of_one_family_are_told_from_others_in_both_directions():
    rows = frame(
        network=["a1", "a2", "a1", "b"],
        seed=[0, 0, 0, 0],
        family=["a", "a", "a", "b"],
        g=["network:a2/seed0", "network:a1/seed0", "network:b/seed0", "network:a1/seed0"],
        split=["test"] * 4,
        metric=["r2"] * 4,
        solver=[""] * 4,
        score=[0.5, 0.7, 0.1, 0.3],
    )
    assert of_distances(rows, "test") == {
        "distance/r2/withheld": 0,
        "distance/r2/all": pytest.approx(0.4),
        "distance/r2/same_family": pytest.approx(0.6),
        "distance/r2/other_families": pytest.approx(0.2),
    }


def test_ways_are_named_by_map_and_solver():
    fits = [MapSpec("identity"), MapSpec("residual", "ridge"), MapSpec("mlp", "minibatch_sgd")]
    assert [way(fit) for fit in fits] == ["invariance", "equivariance_ridge", "equivariance_mlp_minibatch_sgd"]
