"""Tables 1 and 3 of the report, and every table in LaTeX."""

import re

import pandas as pd
import pytest

from invariance.reporting import printed
from invariance.reporting.collect import collect
from invariance.reporting.tables import GAP, Table, accuracy, latex_text, transformations
from tests.reporting_runs import trained


def cells(table):
    return {(row[0], row[1]): row[2:] for row in table.cells}


def test_table_3_has_a_line_for_every_network_of_the_paper_and_its_number_beside_ours(tmp_path):
    trained(tmp_path, "rvl_cdip", "rotation_20", "rotation", 20, error=0.1)
    trained(tmp_path, "rvl_cdip", "baseline", "baseline", None, seed=1, error=0.2)
    table = accuracy(collect(tmp_path))
    assert table.header == ["network", "seed", "rvl_cdip, 2,000 images of test", "rvl_cdip, printed in Table 3"]
    found = cells(table)
    assert len(found) == 36
    assert found["rotation_20", "0"] == ["88.0 [86.8, 89.0]", "88.49"]
    assert found["baseline", "1"] == ["78.0 [76.8, 79.0]", "88.31"]
    assert found["baseline", "2"] == [GAP, "88.33"] and found["crop_320", "0"] == [GAP, "86.47"]
    # what the paper calls horizontal turns its images upside down (docs/transforms.md)
    assert found["mirror_vertical", "0"] == [GAP, "88.51"]
    assert [row[0] for row in table.cells][:4] == ["baseline", "baseline", "baseline", "blur_1.5"]
    assert [row[0] for row in table.cells][-4:] == ["shear_5", "shear_10", "shear_15", "shear_20"]
    assert list(table.numbers["paper"]) == pytest.approx([0.8831, 0.8849])


def test_mirror_networks_stand_beside_what_the_paper_s_code_did():
    assert printed.accuracy("ilsvrc", "mirror_horizontal", 0) == pytest.approx(0.5513)  # its Vert.
    assert printed.accuracy("ilsvrc", "mirror_vertical", 0) == pytest.approx(0.5233)  # its Horz.


def test_other_data_have_no_printed_numbers_and_only_the_networks_that_there_are(tmp_path):
    trained(tmp_path, "digits", "rotation_20", "rotation", 20)
    table = accuracy(collect(tmp_path))
    assert len(table.cells) == 1 and "printed" not in " ".join(table.header)
    assert table.numbers["paper"].isna().all()


def test_the_paper_s_networks_are_those_of_conf(compose):
    from invariance.conf import conf_dir

    ours = {
        (config["name"], config["seed"])
        for config in (compose("train", f"network={path.stem}") for path in (conf_dir() / "network").glob("*.yaml"))
    }
    assert set(printed.networks("ilsvrc")) == ours == set(printed.networks("rvl_cdip"))


def test_table_1_is_made_from_the_families_files():
    table = transformations()
    found = {row[0]: row for row in table.cells}
    assert found["baseline"][2:] == [GAP, "1", GAP]
    assert found["rotation"][2:] == ["range 5, 10, 15, 20", "4", "16"]
    assert found["elastic"][2:] == ["range 5, 10; sigma 2, 3", "4", "12"]
    assert found["crop"][4] == "24" and found["mirror"][3:] == ["3", "3"] and found["blur"][3] == "2"
    assert table.numbers["networks"].sum() == 34  # 33 and the baseline
    assert table.text == [True, True, True, False, False]


def test_latex_escapes_what_has_a_meaning_there():
    assert latex_text("50% of a_b & c#1 {x} \\ $ ~ ^") == (
        r"50\% of a\_b \& c\#1 \{x\} \textbackslash{} \$ \textasciitilde{} \textasciicircum{}"
    )
    assert latex_text("θ = ±5°, λ₃ · σ² − 1") == (
        r"$\theta$ = $\pm$5$^\circ$, $\lambda$$_3$ $\cdot$ $\sigma$$^2$ $-$ 1"
    )


def balanced(tex):
    bare = re.sub(r"\\[\\{}$&%#_]", "", tex)
    depth = 0
    for letter in bare:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    return depth == 0 and bare.count("$") % 2 == 0


def test_every_table_is_a_whole_latex_table():
    odd = [["x & y", "1", "+0.5"], ["ü\\", GAP, GAP]]
    table = Table("odd_name", "Accuracy in % {of} φ", ["a_b", "n", "±"], odd, pd.DataFrame())
    for one in (table, transformations()):
        tex = one.files()[f"tables/{one.name}.tex"].decode()
        assert balanced(tex)
        body = tex.split("\\midrule\n")[1].split("\n\\bottomrule")[0].splitlines()
        assert len(body) == len(one.cells)
        for line in body:
            assert len(re.findall(r"(?<!\\)&", line)) == len(one.header) - 1 and line.endswith(r" \\")
        [columns] = re.findall(r"\\begin\{tabular\}\{(.*)\}", tex)
        assert len(columns) == len(one.header)
    assert "{lrr}" in table.latex()
