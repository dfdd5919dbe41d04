"""Whether the demo left what it promises: rows of both networks over the whole grid, and a page with figures."""

import sys
from pathlib import Path

from invariance.runs.rows import read_rows

report = Path(sys.argv[1])
rows = read_rows(report / "rows.csv")
measured = rows[(rows["stage"] == "measure") & (rows["metric"] == "error_rate")]
for network in ("baseline", "rotation_20"):
    for how in ("identity", "residual"):
        points = measured[(measured["network"] == network) & (measured["map"] == how)]["g"].nunique()
        assert points == 17, f"{network} through {how}: {points} of 17 g measured"
page = (report / "index.html").read_text(encoding="utf-8")
assert page.count("<svg") >= 2, "the page shows no figures"
assert list((report / "figures").glob("*.png")), "no figures were written"
print(f"the demo left {len(rows)} rows and a page of {len(page) // 1024} KiB")
