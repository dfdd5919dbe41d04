"""Tables of what finetuning did: the changes over G, and the distances before and after; and what they lack."""

import numpy as np

from invariance.reporting.finetuned import LEARNED, FinetunedNetworks, Finetuning, Spread, of_every_weight, way
from invariance.reporting.table import GAP, Cell, Table


def changes(study: FinetunedNetworks, slug: str) -> Table:
    """What finetuning changed over G, paired by seed: claim (g)."""
    header = ["finetuning", "λ3", "seeds", "untouched"]
    header += [f"over G, {way(fit)}" for fit in study.fits] + [f"over G, {way(LEARNED)} against the best M_g before"]
    lines = []
    for name, network, ones in study.groups():
        gains = {"untouched": [study.untouched(one, True) - study.untouched(one, False) for one in ones]}
        for fit in study.fits:
            values = [study.over_g(one, True, fit) - study.over_g(one, False, fit) for one in ones]
            gains["_".join(filter(None, fit))] = values
        gains["learned"] = [study.over_g(one, True, LEARNED) - study.best_before(one)[1] for one in ones]
        line = _beginning(name, network, ones, tuple(one.run for one in ones))
        for key, values in gains.items():
            spread, better = Spread.of(values), sum(value > 0 for value in values)
            rose = "" if np.isnan(spread.mean) else f" ({better} of {len(ones)} up)"
            numbers = {key: spread.mean, f"{key}_sd": spread.sd, f"{key}_better": better}
            line.append(Cell(spread.told(signed=True) + rose, numbers))
        lines.append(line)
    caption = (
        "Accuracy after finetuning less accuracy before, in percentage points: mean ± standard deviation over seeds, "
        "each compared with itself, and how many rose. Over G: the mean over all g of G. The best M_g before: of the "
        "fitted maps that have a number at every g for that seed, the one that is best on these images. "
        f"{GAP}: some g has no number for a seed."
    )
    return Table.of(f"{slug}-changes", caption, header, lines)


def _beginning(name: str, network: str, ones: list[Finetuning], runs: tuple[str, ...] = ()) -> list[Cell]:
    """The first cells of a line."""
    about = {"network": network, "name": name, "family": ones[0].family}
    weight = Cell(f"{ones[0].lambda3:g}", {"lambda3": ones[0].lambda3})
    return [Cell(f"{network}, {name}", about), weight, Cell(str(len(ones)), {"seeds": len(ones)}, runs)]


def distances(study: FinetunedNetworks, slug: str) -> Table:
    """Mean L_L2 over G before and after, through every map."""
    ways = [(fit, after) for fit in study.fits for after in (False, True)] + [(LEARNED, True)]
    header = ["finetuning", "λ3", "seeds"]
    header += [f"{'finetuned' if after else 'original'}, {way(fit)}" for fit, after in ways]
    lines = []
    for name, network, ones in study.groups():
        line = _beginning(name, network, ones)
        for fit, after in ways:
            spread = Spread.of(study.over_g(one, after, fit, "l2_distance") for one in ones)
            runs = dict.fromkeys(run for one in ones for run in study.at(one, after, fit)["run"].dropna())
            line.append(Cell(spread.told(digits=3), spread.columns(after, fit), tuple(runs)))
        lines.append(line)
    caption = (
        f"L_L2 over G on {study.images:,} images of {study.data} ({study.split}) before and after finetuning, each "
        "network against its own untouched features, φ at "
        f"{study.layer}: mean over all g of G, then mean ± standard deviation over seeds; lower is nearer. "
        f"{GAP}: not measured, or some g has no number for a seed."
    )
    return Table.of(f"{slug}-distances", caption, header, lines)


def gaps(study: FinetunedNetworks) -> list[str]:
    """What the tables lack, in words; a g without an accuracy, or where none was measured at all, an L_L2."""
    found, of = list[str](), "accuracy" if study.has("accuracy") else "l2_distance"
    asked = {(network, seed, kind, solver) for network, seed, _, kind, solver, _ in study.numbers.index}
    for name, network, ones in study.groups():
        for one in ones:
            for fit in (fit for fit in (*study.fits, LEARNED) if (one.finetuned, one.seed, *fit) in asked):
                for after in (False, True) if fit != LEARNED else (True,):
                    known = study.at(one, after, fit)[of].notna()
                    lacking = [g for g, there in zip(one.labels, known, strict=True) if not there]
                    if lacking:
                        when = f"finetuned ({name})" if after else "before"
                        where = f"{network} (seed {one.seed}), {when}, {way(fit)}"
                        found.append(f"{where}: no number at {', '.join(lacking)}")
    for ones in study.sweeps():
        whole = {one.seed for one in of_every_weight(ones)}
        lacking = [str(seed) for seed in sorted({one.seed for one in ones} - whole)]
        if lacking:
            found.append(f"{ones[0].network}: the trade-off over λ3 is without seed {', '.join(lacking)}")
    return list(dict.fromkeys(found))
