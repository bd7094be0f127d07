"""What the study of curriculum x decay x averaging says: losses, the paper's tables, the gap by end rate, and findings with their tests.

Everything is a *contrast*, a sum of held-out losses with signs, such as (uniform - ascending) at one end rate less the same at another. A
contrast is taken within a seed, where all recipes begin with the same weights, and comes with two 95% intervals: Student's t over seeds,
and a paired bootstrap over held-out documents. Nats per token, mean over sources; below 0 means that the first is better.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from kaiyuan_jax import storage
from kaiyuan_jax.evaluation import bootstrap
from kaiyuan_jax.experiments import analysis, curriculum_findings, curriculum_runs, quadratic
from kaiyuan_jax.experiments.curriculum import AVERAGES, ENDS, NEAR_ZERO, Recipe, Study, recipes
from kaiyuan_jax.experiments.curriculum_findings import BASELINE, TABLES, Kept
from kaiyuan_jax.models import flops

QUADRATIC_SIZES = (100, 300, 1000, 3000, 10_000, 30_000)


@dataclasses.dataclass(frozen=True)
class Measured:
    """The held-out losses of every seed on one corpus."""

    seeds: Sequence[dict[str, dict[str, np.ndarray]]]  # of curriculum_runs.held_out

    def nats(self, seed: int, source: str, kept: Kept) -> np.ndarray:
        """float64[documents]."""
        return self.seeds[seed][source]["nats"][_PLACE[kept.recipe], AVERAGES.index(kept.average)]

    def contrast(self, terms: Sequence[tuple[float, Kept]]) -> dict:
        """`analysis.spread` of the sum of sign times loss, with the interval over documents."""
        by_seed, samples = np.zeros(len(self.seeds)), []
        for source, table in self.seeds[0].items():
            gaps = np.array([sum(sign * self.nats(seed, source, kept) for sign, kept in terms) for seed in range(len(self.seeds))])
            by_seed += [bootstrap.ratio(gap, table["tokens"]) for gap in gaps]
            samples.append(bootstrap.resampled_ratios(gaps.mean(0), table["tokens"], resamples=analysis.RESAMPLES, seed=0, key=source))
        return analysis.spread(by_seed / len(samples)) | {"documents": bootstrap.percentiles(np.mean(samples, axis=0), analysis.LEVEL)}

    def loss(self, kept: Kept) -> dict:
        """A loss with its interval over seeds."""
        return analysis.spread([
            float(np.mean([bootstrap.ratio(self.nats(seed, source, kept), table["tokens"]) for source, table in of_seed.items()]))
            for seed, of_seed in enumerate(self.seeds)
        ])  # fmt: skip


_PLACE = {recipe: number for number, recipe in enumerate(recipes())}


def collect(study: Study) -> dict:
    """Every number of the report, out of the cells' losses; writes results.json. Raises UserError where a cell is not finished."""
    corpora = {}
    for corpus in study.corpora:
        cells = [cell for cell in study.cells() if cell.corpus == corpus]
        corpora[corpus.name] = _corpus(Measured([curriculum_runs.held_out(cell) for cell in cells]))
    results = {
        "size": {key: value for key, value in dataclasses.asdict(study.size).items() if key != "model"},
        "parameters": flops.parameters(study.size.model),
        "tokens": study.tokens,
        "seeds": study.seeds,
        "control": curriculum_runs.CONTROL_NOISE,
        "corpora": corpora,
        "quadratic": _quadratic(study),
    }
    storage.replace(study.folder / "results.json", json.dumps(results, indent=1) + "\n")
    return results


def _corpus(measured: Measured) -> dict:
    kept = [Kept(recipe, average) for recipe in recipes() for average in AVERAGES]
    losses = {str(one): measured.loss(one) for one in kept}
    rows = {
        name: [
            {"kept": str(row.kept), "paper": row.paper, "loss": losses[str(row.kept)],
             "difference": measured.contrast([(1, row.kept), (-1, table[0].kept)]) if row is not table[0] else None}
            for row in table
        ]
        for name, table in TABLES.items()
    }  # fmt: skip
    return {
        "documents": int(sum(len(table["document"]) for table in measured.seeds[0].values())),
        "targets": int(sum(table["tokens"].sum() for table in measured.seeds[0].values())),
        "losses": losses,
        "diverged": [one for one, loss in losses.items() if not np.isfinite(loss["mean"])],
        "baseline": str(BASELINE),
        "tables": rows,
        "gaps": {average: gaps(measured, average) for average in AVERAGES},
        "findings": [_finding(measured, finding) for finding in curriculum_findings.FINDINGS],
    }


def gaps(measured: Measured, average: str) -> list[dict]:
    """Loss of uniform less that of ascending by end rate, from the constant rate down; above 0 where ascending is better."""
    found = []
    for schedule in ("constant", *(f"wsd_{end}" for end in ENDS)):
        pair = [Kept(Recipe(order, schedule), average) for order in ("uniform", "ascending")]
        found.append({"end": pair[0].recipe.end} | measured.contrast([(1, pair[0]), (-1, pair[1])]))
    return found


def _finding(measured: Measured, finding: curriculum_findings.Finding) -> dict:
    tests = []
    for test in finding.tests:
        contrast = measured.contrast(test.terms)
        tests.append({"claim": test.claim, "outcome": outcome(contrast)} | contrast)
    return {"title": finding.title, "extra": finding.extra, "outcome": together([test["outcome"] for test in tests]), "tests": tests}


def outcome(contrast: dict) -> str:
    """Of a contrast that is claimed to be below 0: yes or no where both intervals are on one side of it, else not seen."""
    both = [contrast["interval"], contrast["documents"]]
    if any(interval is None or not np.all(np.isfinite(interval)) for interval in both):
        return "not seen"
    return "yes" if all(high < 0 for _, high in both) else "no" if all(low > 0 for low, _ in both) else "not seen"


def together(outcomes: Sequence[str]) -> str:
    """A finding is as its tests are: no if one says no, yes if all say yes."""
    return "no" if "no" in outcomes else "yes" if set(outcomes) == {"yes"} else "not seen"


def _quadratic(study: Study) -> dict:
    regimes = [quadratic.regimes(size, decay=study.size.decay) for size in QUADRATIC_SIZES]
    by_name = {name: [one[name] for one in regimes] for name in regimes[0]}
    sizes, late = np.array(QUADRATIC_SIZES), slice(2, None)
    ends = (1.0, *(1 / end for end in ENDS))
    return {
        "sizes": list(QUADRATIC_SIZES),
        "losses": by_name,
        "exponents": {name: quadratic.exponent(sizes[late], np.array(values)[late]) for name, values in by_name.items()},
        "ends": list(ends),
        "gaps": {name: values.tolist() for name, values in quadratic.gaps(study.size.steps, ends, decay=study.size.decay).items()},
        "near_zero": 1 / NEAR_ZERO,
    }
