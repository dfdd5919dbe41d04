"""Every number of the report leads to its run."""

import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pandas as pd
import pytest

from invariance.reporting import tables
from invariance.reporting.curves import families
from invariance.reporting.finetuned import LEARNED, NO_MAP, FinetunedNetworks, Finetuning
from invariance.reporting.page import make_report
from invariance.reporting.paper import finetuned as tables_2_and_4
from invariance.reporting.paper.tables import accuracy
from invariance.reporting.rows import collect, run_anchor
from invariance.reporting.table import GAP, Table
from invariance.runs.rows import read_rows
from tests.reporting_runs import finetuned_numbers, measured, trained


class Cells(HTMLParser):
    """The cells of all tables with their links, and the rows that links can lead to."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.ids, self._in = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        held = dict(attrs)
        if tag in ("td", "th"):
            self.cells.append(["", []])
            self._in = tag
        if "id" in held:
            self.ids.append(held["id"])
        if tag == "a" and self._in:
            self.cells[-1][1].append(held["href"])

    def handle_endtag(self, tag):
        self._in = "" if tag in ("td", "th") else self._in

    def handle_data(self, data):
        if self._in:
            self.cells[-1][0] += data


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "my runs"
    for seed in (0, 1):
        trained(root, "digits", "baseline", "baseline", None, seed=seed)
    trained(root, "digits", "rotation_20", "rotation", 20)
    measured(root, "digits", "baseline", "baseline", None, "rotation")
    measured(root, "digits", "rotation_20", "rotation", 20, "rotation", diverged=("45",), missing=("-30",))
    return root


def test_an_anchor_is_of_the_name_alone_and_safe_in_an_address():
    names = ["train/a/b/seed0", "train/a/b/seed1", "a<b>&\"'#x", ""]
    assert len({run_anchor(name) for name in names}) == len(names)
    assert all(re.fullmatch(r"r[0-9a-f]{12}", run_anchor(name)) for name in names)


def test_every_number_of_a_table_names_the_run_whose_row_it_is(runs):
    collected = collect(runs)
    table = accuracy(collected)
    assert {(table.cells[k][0], table.cells[k][1]): run for (k, _), run in table.runs.items()} == {
        (network, str(seed)): (f"train/digits/{network}/seed{seed}",)
        for network, seed in (("baseline", 0), ("baseline", 1), ("rotation_20", 0))
    }
    table = tables.measurements(families(collected)[0], "error_rate", "x")
    column = table.header.index("rotation_20, residual map, ridge")
    name = "measure/digits/rotation_20/seed0/rotation/residual_ridge"
    there = {place: run for place, run in table.runs.items() if place[1] == column}
    assert set(there.values()) == {(name,)} and len(there) == len(table.cells) - 1  # one is missing
    assert all(
        f"{100 * (1 - row.score):.1f} " in {table.cells[k][column][:5] for k, _ in there}
        for row in read_rows(runs / name / "rows.csv").query("split == 'test' and metric == 'error_rate'").itertuples()
    )
    summary = tables.summary(families(collected)[0], "x")
    for (k, _), (run,) in summary.runs.items():
        network, fit = summary.numbers.loc[k, "network"], summary.numbers.loc[k, ["map", "solver"]]
        assert run == f"measure/digits/{network}/seed0/rotation/{'_'.join(filter(None, fit))}"
    assert len(summary.runs) == 3 * len(summary.cells)


def test_a_gap_leads_nowhere_and_a_number_of_several_runs_to_each():
    runs = {(0, 1): ("a",), (0, 2): ("a", "b"), (0, 3): ("a",)}
    table = Table("t", "c", ["x", "one", "two", "none"], [["g", "1.0", "2.0", GAP]], pd.DataFrame(), runs=runs)
    one, two, none = Cells(table.html("../index.html")).cells[-3:]
    a, b = (f"../index.html#{run_anchor(run)}" for run in "ab")
    assert one == ["1.0", [a]] and two == ["2.0 [1 2]", [a, b]] and none == [GAP, []]
    assert run_anchor("a") not in table.markdown() + table.latex()


def test_the_page_lists_every_run_that_a_number_leads_to(runs, tmp_path, undrawn):
    page = Cells(make_report(runs, tmp_path / "report").read_text())
    numbers = [cell for cell in page.cells if re.match(r"\d+\.\d+ \[", cell[0]) or cell[0] == "diverged"]
    assert len(numbers) > 100 and all(len(links) == 1 for _, links in numbers)
    assert {links[0][1:] for _, links in numbers} <= set(page.ids)
    names = {path.parent.relative_to(runs).as_posix() for path in runs.glob("**/done.json")}
    assert {run_anchor(name) for name in names} <= set(page.ids) and len(page.ids) == len(set(page.ids))


def test_runs_beside_the_report_are_linked_and_others_are_not(runs, tmp_path, undrawn):
    beside = Cells(make_report(runs, tmp_path / "report").read_text())
    folders = {link for _, links in beside.cells for link in links if link.startswith("..")}
    assert folders and all((tmp_path / "report" / unquote(link) / "done.json").exists() for link in folders)
    elsewhere = Cells(make_report(runs, tmp_path / "far" / "report").read_text())
    assert not any(link.startswith("..") for _, links in elsewhere.cells for link in links)


def test_a_run_s_place_in_wandb_is_linked_if_it_is_an_address(runs, tmp_path, undrawn):
    for seed, seen in ((0, {"url": "https://example.org/run/1"}), (1, {"url": "javascript:alert(1)"})):
        path = runs / f"train/digits/baseline/seed{seed}/provenance.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "wandb": seen}))
    path = runs / "train/digits/rotation_20/seed0/provenance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "wandb": {"offline": "wandb/offline-run"}}))
    page = make_report(runs, tmp_path / "report").read_text()
    assert page.count('(<a href="https://example.org/run/1">W&amp;B</a>)') == 1 and page.count("W&amp;B</a>") == 1
    assert "javascript:" not in page
    alone = make_report(runs, tmp_path / "alone", wandb=False).read_text()
    assert "W&amp;B" not in alone and "example.org" not in alone


def test_numbers_of_finetuning_lead_to_the_run_of_every_seed():
    ones = tuple(
        Finetuning("blur_3", "blur_3+j", "j", "blur", "blur_G", seed, 0.3, (1, 1), ("2",), "", f"finetune/seed{seed}")
        for seed in (0, 1)
    )
    places = [
        (network, seed, "blur_G", g, fit)
        for network in ("blur_3", "blur_3+j")
        for seed in (0, 1)
        for g in ("untouched", "2")
        for fit in (NO_MAP, LEARNED)
        if (network, fit) != ("blur_3", LEARNED)
    ]
    runs = {place: f"{place[0]}/{place[1]}/{place[4][1]}" for place in places}
    numbers = finetuned_numbers(dict.fromkeys(places, 50.0), runs=runs)
    study = FinetunedNetworks("digits", "fc7", 9, "test", ones, (NO_MAP,), numbers=numbers)
    changes, accuracies, distances = (table for _, table in tables_2_and_4.tables(study, "x"))
    assert changes.runs[0, 2] == accuracies.runs[0, 1] == ("finetune/seed0", "finetune/seed1")
    assert [accuracies.runs[1, k] for k in (2, 3, 4)] == [
        ("blur_3/0/", "blur_3/1/"),
        ("blur_3+j/0/", "blur_3+j/1/"),
        ("blur_3+j/0/joint", "blur_3+j/1/joint"),
    ]
    assert [distances.runs[0, k] for k in (3, 4, 5)] == [accuracies.runs[1, k] for k in (2, 3, 4)]
