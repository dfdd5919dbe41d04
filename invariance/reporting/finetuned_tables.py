"""Tables of what finetuning did: the form of Tables 2 and 4, and the change over G for claim (g)."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from invariance.reporting.finetuned import LEARNED, Finetuning, Spread, Study, way
from invariance.reporting.paper import printed
from invariance.reporting.paper.figures import finetuning_command
from invariance.reporting.paper.printed import PrintedAccuracy
from invariance.reporting.table import GAP, Table
from invariance.transforms.base import UNTOUCHED


def accuracies(study: Study, name: str, slug: str, lacking: Sequence[str] = ()) -> Table:
    """Accuracy untouched and under every g of G, before and after, as in Tables 2 and 4, for one name of finetuning.

    Args:
        study: what was finetuned.
        name: the name; one that no finetuning has gives a table of `lacking` alone.
        slug: beginning of the file's name.
        lacking: networks of the paper's table that were not finetuned, which have its numbers beside gaps.
    """
    groups = [(network, ones) for of, network, ones in study.groups() if of == name]
    paper = bool(lacking) or any(printed.finetuned(study.data, network) for network, _ in groups)
    of = printed.finetuned_table(study.data)
    header = ["network and g", "seeds", *([f"{of}, original", f"{of}, finetuned"] if paper else [])]
    header += [f"{when}, {way(fit)}" for fit in study.fits for when in ("original", "finetuned")]
    header.append(f"finetuned, {way(LEARNED)}")
    lines = [line for network, ones in groups for line in _lines(study, network, ones, paper)]
    lines += [_unmeasured(network, one) for network in lacking for one in printed.finetuned(study.data, network)]
    cells = [[*row, *([GAP] * (len(header) - len(row)))] for row, _, _ in lines]
    runs = {(k, column): own for k, (_, _, found) in enumerate(lines) for column, own in found.items()}
    numbers = pd.DataFrame([record for _, record, _ in lines])
    same = paper and all(one.lambda3 == printed.LAMBDA_3 for _, ones in groups for one in ones)
    caption = f"{of if same else 'Form of Tables 2 and 4'}: {_caption(study, name if groups else '')}"
    return Table(f"{slug}-accuracies-{name}", caption, header, cells, numbers, runs=runs)


_Line = tuple[list[str], dict[str, object], dict[int, tuple[str, ...]]]
"""Cells from the left, the numbers of a line, and the runs that they are from, by column."""


def _lines(study: Study, network: str, ones: list[Finetuning], paper: bool) -> list[_Line]:
    """The lines of a network: untouched, every g of G, and what the paper prints without its parameters."""
    printed_at = {one.label: one for one in printed.finetuned(study.data, network) if one.label}
    lines = []
    for label in (UNTOUCHED, *ones[0].labels):
        row = [f"{network}: {label}", str(len(ones))]
        record: dict[str, object] = {"network": network, "g": label, "seeds": len(ones)}
        runs = {1: tuple(one.run for one in ones)}
        row += _printed(printed_at.get(label), paper, record)
        columns = [(fit, after) for fit in study.fits for after in (False, True)]
        for fit, after in [*columns, (LEARNED, True)]:
            values = Spread.of(study.accuracy(one, after, one.grid, label, fit) for one in ones)
            if label == UNTOUCHED and fit == LEARNED:  # there is no M_g of the untouched
                values = Spread(math.nan, math.nan, len(ones))
            key = f"{'finetuned' if after else 'original'}_{'_'.join(filter(None, fit))}"
            record |= {key: values.mean, f"{key}_sd": values.sd}
            runs[len(row)] = tuple(run for one in ones for run in study.run(one, after, one.grid, label, fit))
            row.append(_spread(values))
        lines.append((row, record, runs))
    return lines + [_unmeasured(network, one) for one in printed.finetuned(study.data, network) if not one.label]


def _unmeasured(network: str, one: PrintedAccuracy) -> _Line:
    """A line of the paper's table that we have no number for."""
    record: dict[str, object] = {"network": network, "g": one.label or one.what, "seeds": 0}
    return [f"{network}: {one.label or one.what}", GAP, *_printed(one, True, record)], record, {}


def _caption(study: Study, name: str) -> str:
    if not name:
        return (
            f"accuracy in percent on {study.data} before and after finetuning with the joint loss, as it is printed. "
            f"{GAP}: not measured."
        )
    return (
        f"accuracy in percent on {study.images:,} images of {study.data} ({study.split}) before and after finetuning "
        f"({name}), φ at {study.layer}: mean ± standard deviation over seeds. M_g: fitted before and after alike; "
        f"learned M_g: the maps that were finetuned with the network. {GAP}: not measured, or diverged for a seed."
    )


def _printed(one: PrintedAccuracy | None, shown: bool, record: dict[str, object]) -> list[str]:
    if not shown:
        return []
    record |= {
        "paper_original": one.original if one else math.nan,
        "paper_finetuned": one.finetuned if one else math.nan,
    }
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
            "network": network,
            "name": name,
            "family": ones[0].family,
            "lambda3": ones[0].lambda3,
            "seeds": len(ones),
        }
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
            "network": network,
            "name": name,
            "family": ones[0].family,
            "lambda3": ones[0].lambda3,
            "seeds": len(ones),
        }
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
    """What there are numbers for, with their names: the change over G, the accuracies of every finetuning, L_L2.

    On the paper's data one table of accuracies, of its λ3, has all the networks of its Table 2 or 4.
    """
    names = list(dict.fromkeys(name for name, _, _ in study.groups())) if study.scores else []
    papers, lacking = absent(study)
    made = [("Changes over G", changes(study, slug))] if study.scores else []
    for name in names:
        table = accuracies(study, name, slug, lacking if name == papers else ())
        of = table.caption.partition(":")[0]
        made.append((f"{of}: accuracies before and after, {name}", table))
    if lacking and papers not in names:
        of = printed.finetuned_table(study.data)
        made.append((f"{of}: accuracies before and after, as printed", accuracies(study, papers, slug, lacking)))
    return made + ([("Distances L_L2 before and after", distances(study, slug))] if study.far else [])


def absent(study: Study) -> tuple[str, list[str]]:
    """The finetuning that is the paper's Table 2 or 4 or nearest to it, and that table's networks that it lacks.

    It is the one of the paper's λ3 that has the most of its networks; `printed`, and all of them, where none has any.
    """
    wanted = printed.finetuned_networks(study.data)
    held: dict[str, set[str]] = {}
    for one in study.all if study.scores else ():
        if one.lambda3 == printed.LAMBDA_3 and one.network in wanted:
            held.setdefault(one.name, set()).add(one.network)
    if not held:
        return "printed", wanted
    name = max(held, key=lambda name: len(held[name]))
    return name, [network for network in wanted if network not in held[name]]


def gaps(study: Study) -> list[str]:
    """What the tables lack, in words."""
    found = []
    _, lacking = absent(study)
    if lacking:
        of, command = printed.finetuned_table(study.data), finetuning_command(study.data)
        found.append(f"{of}: not finetuned: {', '.join(lacking)} ({command})")
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
