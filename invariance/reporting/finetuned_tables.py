"""Tables of what finetuning did: the changes over G, and the distances before and after; and what they lack."""

import numpy as np
import pandas as pd

from invariance.reporting.finetuned import LEARNED, FinetunedNetworks, Finetuning, Spread, way
from invariance.reporting.table import GAP, Table


def changes(study: FinetunedNetworks, slug: str) -> Table:
    """What finetuning changed over G, paired by seed: claim (g)."""
    header = ["finetuning", "λ3", "seeds", "untouched"]
    header += [f"over G, {way(fit)}" for fit in study.fits] + [f"over G, {way(LEARNED)} against the best M_g before"]
    cells: list[list[str]] = []
    records: list[dict[str, object]] = []
    runs: dict[tuple[int, int], tuple[str, ...]] = {}
    for name, network, ones in study.groups():
        runs[len(cells), 2] = tuple(one.run for one in ones)
        row, record = _line(name, network, ones)
        found = {"untouched": [study.untouched(one, True) - study.untouched(one, False) for one in ones]}
        for fit in study.fits:
            values = [study.over_g(one, True, fit) - study.over_g(one, False, fit) for one in ones]
            found["_".join(filter(None, fit))] = values
        found["learned"] = [study.over_g(one, True, LEARNED) - study.best_before(one) for one in ones]
        for key, values in found.items():
            spread = Spread.of(values)
            better = sum(value > 0 for value in values)
            record |= {key: spread.mean, f"{key}_sd": spread.sd, f"{key}_better": better}
            rose = "" if np.isnan(spread.mean) else f" ({better} of {len(ones)} up)"
            row.append(spread.told(signed=True) + rose)
        cells.append(row)
        records.append(record)
    caption = (
        "Accuracy after finetuning less accuracy before, in percentage points: mean ± standard deviation over seeds, "
        "each compared with itself, and how many rose. Over G: the mean over all g of G. The best M_g before: of the "
        "fitted maps that have a number at every g for that seed, the one that is best on these images. "
        f"{GAP}: some g has no number for a seed."
    )
    return Table(f"{slug}-changes", caption, header, cells, pd.DataFrame(records), runs=runs)


def _line(name: str, network: str, ones: list[Finetuning]) -> tuple[list[str], dict[str, object]]:
    """The beginning of a line: its cells, and its numbers."""
    one = ones[0]
    record = {"network": network, "name": name, "family": one.family, "lambda3": one.lambda3, "seeds": len(ones)}
    return [f"{network}, {name}", f"{one.lambda3:g}", str(len(ones))], record


def distances(study: FinetunedNetworks, slug: str) -> Table:
    """Mean L_L2 over G before and after, through every map."""
    ways = [(fit, after) for fit in study.fits for after in (False, True)] + [(LEARNED, True)]
    header = ["finetuning", "λ3", "seeds"]
    header += [f"{'finetuned' if after else 'original'}, {way(fit)}" for fit, after in ways]
    cells: list[list[str]] = []
    records: list[dict[str, object]] = []
    runs: dict[tuple[int, int], tuple[str, ...]] = {}
    for name, network, ones in study.groups():
        row, record = _line(name, network, ones)
        for fit, after in ways:
            spread = Spread.of(study.far_over_g(one, after, fit) for one in ones)
            own = (study.run(one, after, one.grid, label, fit) for one in ones for label in one.labels)
            runs[len(cells), len(row)] = tuple(dict.fromkeys(run for found in own for run in found))
            record |= spread.columns(after, fit)
            row.append(spread.told(digits=3))
        cells.append(row)
        records.append(record)
    caption = (
        f"L_L2 over G on {study.images:,} images of {study.data} ({study.split}) before and after finetuning, each "
        "network against its own untouched features, φ at "
        f"{study.layer}: mean over all g of G, then mean ± standard deviation over seeds; lower is nearer. "
        f"{GAP}: not measured, or some g has no number for a seed."
    )
    return Table(f"{slug}-distances", caption, header, cells, pd.DataFrame(records), runs=runs)


def gaps(study: FinetunedNetworks) -> list[str]:
    """What the tables lack, in words."""
    found = list[str]()
    for name, network, ones in study.groups():
        for one in ones:
            for fit in (fit for fit in (*study.fits, LEARNED) if study.was_asked(one, fit)):
                for after in (False, True) if fit != LEARNED else (True,):
                    lacking = [g for g in one.labels if not study.has_number(one, after, g, fit)]
                    if lacking:
                        when = f"finetuned ({name})" if after else "before"
                        where = f"{network} (seed {one.seed}), {when}, {way(fit)}"
                        found.append(f"{where}: no number at {', '.join(lacking)}")
    for ones in study.sweeps():
        each = {seed: {one.lambda3 for one in ones if one.seed == seed} for seed in sorted({one.seed for one in ones})}
        lacking = [str(seed) for seed, held in each.items() if len(held) < max(map(len, each.values()))]
        if lacking:
            found.append(f"{ones[0].network}: the trade-off over λ3 is without seed {', '.join(lacking)}")
    return list(dict.fromkeys(found))
