"""Tables of what finetuning did: the form of Tables 2 and 4, and the change over G for claim (g)."""

import math

import numpy as np
import pandas as pd

from invariance.reporting.finetuned import LEARNED, Spread, Study, way
from invariance.reporting.printed import PrintedAccuracy, finetuned
from invariance.reporting.tables import GAP, Table
from invariance.transforms.base import UNTOUCHED

_TABLE = {"rvl_cdip": "Table 2", "ilsvrc": "Table 4"}


def accuracies(study: Study, name: str, slug: str) -> Table:
    """Accuracy untouched and under every g of G, before and after, as in Tables 2 and 4, for one name of finetuning."""
    groups = [(network, ones) for of, network, ones in study.groups() if of == name]
    printed = any(finetuned(study.data, ones[0].network) for _, ones in groups)
    header = ["network and g", "seeds"]
    header += [f"{_TABLE[study.data]}, original", f"{_TABLE[study.data]}, finetuned"] if printed else []
    header += [f"{when}, {way(fit)}" for fit in study.fits for when in ("original", "finetuned")]
    header.append(f"finetuned, {way(LEARNED)}")
    cells: list[list[str]] = []
    records: list[dict[str, object]] = []
    runs: dict[tuple[int, int], tuple[str, ...]] = {}
    for network, ones in groups:
        paper = {one.label: one for one in finetuned(study.data, ones[0].network) if one.label}
        for label in (UNTOUCHED, *ones[0].labels):
            row = [f"{network}: {label}", str(len(ones))]
            record: dict[str, object] = {"network": network, "g": label, "seeds": len(ones)}
            runs[len(cells), 1] = tuple(one.run for one in ones)
            row += _printed(paper.get(label), printed, record)
            columns = [(fit, after) for fit in study.fits for after in (False, True)]
            for fit, after in [*columns, (LEARNED, True)]:
                values = Spread.of(study.accuracy(one, after, one.grid, label, fit) for one in ones)
                if label == UNTOUCHED and fit == LEARNED:  # there is no M_g of the untouched
                    values = Spread(math.nan, math.nan, len(ones))
                key = f"{'finetuned' if after else 'original'}_{'_'.join(filter(None, fit))}"
                record |= {key: values.mean, f"{key}_sd": values.sd}
                own = (run for one in ones for run in study.run(one, after, one.grid, label, fit))
                runs[len(cells), len(row)] = tuple(own)
                row.append(_spread(values))
            cells.append(row)
            records.append(record)
        for one in finetuned(study.data, ones[0].network):
            if not one.label:  # its g is printed without its parameters
                record = {"network": network, "g": one.what, "seeds": 0}
                row = [f"{network}: {one.what}", GAP, *_printed(one, printed, record)]
                cells.append(row + [GAP] * (len(header) - len(row)))
                records.append(record)
    caption = (
        f"Accuracy in percent on {study.images:,} images of {study.data} ({study.split}) before and after finetuning "
        f"({name}), φ at {study.layer}: mean ± standard deviation over seeds. M_g: fitted before and after alike; "
        f"learned M_g: the maps that were finetuned with the network. {GAP}: not measured, or diverged for a seed."
    )
    return Table(f"{slug}-accuracies-{name}", caption, header, cells, pd.DataFrame(records), runs=runs)


def _printed(one: PrintedAccuracy | None, shown: bool, record: dict[str, object]) -> list[str]:
    if not shown:
        return []
    record |= {
        "paper_original": one.original if one else math.nan, "paper_finetuned": one.finetuned if one else math.nan,
    }  # fmt: skip
    return [f"{one.original:.2f}", f"{one.finetuned:.2f}"] if one else [GAP, GAP]


def changes(study: Study, slug: str) -> Table:
    """What finetuning changed over G, paired by seed: claim (g)."""
    ways = [*study.fits]
    header = ["finetuning", "λ3", "seeds", "untouched"]
    header += [f"over G, {way(fit)}" for fit in ways] + [f"over G, {way(LEARNED)} against the best M_g before"]
    cells: list[list[str]] = []
    records: list[dict[str, object]] = []
    runs: dict[tuple[int, int], tuple[str, ...]] = {}
    for name, network, ones in study.groups():
        runs[len(cells), 2] = tuple(one.run for one in ones)
        row = [f"{network}, {name}", f"{ones[0].lambda3:g}", str(len(ones))]
        record: dict[str, object] = {
            "network": network, "name": name, "family": ones[0].family, "lambda3": ones[0].lambda3, "seeds": len(ones),
        }  # fmt: skip
        found = {"untouched": [study.untouched(one, True) - study.untouched(one, False) for one in ones]}
        for fit in ways:
            found["_".join(filter(None, fit))] = [
                study.over_g(one, True, fit) - study.over_g(one, False, fit) for one in ones
            ]
        found["learned"] = [study.over_g(one, True, LEARNED) - study.best_before(one) for one in ones]
        for key, values in found.items():
            spread = Spread.of(values)
            better = sum(value > 0 for value in values)
            record |= {key: spread.mean, f"{key}_sd": spread.sd, f"{key}_better": better}
            rose = "" if math.isnan(spread.mean) else f" ({better} of {len(ones)} up)"
            row.append(_spread(spread, signed=True) + rose)
        cells.append(row)
        records.append(record)
    caption = (
        "Accuracy after finetuning less accuracy before, in percentage points: mean ± standard deviation over seeds, "
        "each compared with itself, and how many rose. Over G: the mean over all g of G. The best M_g before: of the "
        "fitted maps that have a number at every g for that seed, the one that is best on these images. "
        f"{GAP}: some g has no number for a seed."
    )
    return Table(f"{slug}-changes", caption, header, cells, pd.DataFrame(records), runs=runs)


def _spread(values: Spread, signed: bool = False, digits: int = 2) -> str:
    if math.isnan(values.mean):
        return GAP
    mean = f"{values.mean:+.{digits}f}" if signed else f"{values.mean:.{digits}f}"
    return mean if np.isnan(values.sd) else f"{mean} ± {values.sd:.{digits}f}"


def distances(study: Study, slug: str) -> Table:
    """Mean L_L2 over G before and after, through every map."""
    ways = [(fit, after) for fit in study.fits for after in (False, True)] + [(LEARNED, True)]
    header = ["finetuning", "λ3", "seeds"]
    header += [f"{'finetuned' if after else 'original'}, {way(fit)}" for fit, after in ways]
    cells: list[list[str]] = []
    records: list[dict[str, object]] = []
    runs: dict[tuple[int, int], tuple[str, ...]] = {}
    for name, network, ones in study.groups():
        row = [f"{network}, {name}", f"{ones[0].lambda3:g}", str(len(ones))]
        record: dict[str, object] = {
            "network": network, "name": name, "family": ones[0].family, "lambda3": ones[0].lambda3, "seeds": len(ones),
        }  # fmt: skip
        for fit, after in ways:
            spread = Spread.of(study.far_over_g(one, after, fit) for one in ones)
            own = (study.run(one, after, one.grid, label, fit) for one in ones for label in one.labels)
            runs[len(cells), len(row)] = tuple(dict.fromkeys(run for found in own for run in found))
            key = f"{'finetuned' if after else 'original'}_{'_'.join(filter(None, fit))}"
            record |= {key: spread.mean, f"{key}_sd": spread.sd}
            row.append(_spread(spread, digits=3))
        cells.append(row)
        records.append(record)
    caption = (
        f"L_L2 over G on {study.images:,} images of {study.data} ({study.split}) before and after finetuning, each "
        "network against its own untouched features, φ at "
        f"{study.layer}: mean over all g of G, then mean ± standard deviation over seeds; lower is nearer. "
        f"{GAP}: not measured, or some g has no number for a seed."
    )
    return Table(f"{slug}-distances", caption, header, cells, pd.DataFrame(records), runs=runs)


def tables(study: Study, slug: str) -> list[tuple[str, Table]]:
    """What there are numbers for, with their names: the change over G, the accuracies of every finetuning, L_L2."""
    names = list(dict.fromkeys(name for name, _, _ in study.groups())) if study.scores else []
    made = [("Changes over G", changes(study, slug))] if study.scores else []
    made += [(f"Accuracies before and after, {name}", accuracies(study, name, slug)) for name in names]
    return made + ([("Distances L_L2 before and after", distances(study, slug))] if study.far else [])


def gaps(study: Study) -> list[str]:
    """What the tables lack, in words."""
    found = []
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
