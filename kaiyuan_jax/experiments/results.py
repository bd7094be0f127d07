"""The stages of the study after its runs: fit a law, and gather what came out.

curves/*.csv    the mean over seeds of every schedule's curve: step, lr, loss
law.json        fitted to the training curves' means
schedule.json   what the law holds for best
results.json    every number of the report
"""

import dataclasses
import json

import numpy as np

from kaiyuan_jax.experiments import analysis, curves, runs, schedules
from kaiyuan_jax.experiments.schedules import Study
from kaiyuan_jax.models import flops
from kaiyuan_jax.schedules.laws import artefact, catalogue, converged, fit, forecast, metrics, uncertainty
from kaiyuan_jax.schedules.laws.curves import Curve

LAW, PROTOCOL = "multi_power", "robust"
OTHERS = ("multi_power", "one_power", "linear", "momentum", "functional_scaling")  # fitted with protocol "converged", to compare


def read(study: Study, found: list[runs.Run]) -> dict[str, list[Curve]]:
    """Schedule -> its curve of every seed. Raises UserError where a run is not finished."""
    by_name: dict[str, list[Curve]] = {}
    for run in found:
        curve = curves.read(run.folder, runs.rates(run.experiment), warmup=study.size.warmup, first=study.size.first)
        by_name.setdefault(run.name, []).append(curve)
    return by_name


def fit_law(study: Study) -> fit.Fit:
    """Fits the law to the training curves and writes curves/ and law.json."""
    by_name = read(study, [run for run in study.runs() if run.name in schedules.TRAIN])
    means = []
    for name, of_seeds in by_name.items():
        path = study.folder / "curves" / f"{name}.csv"
        mean = curves.mean(name, of_seeds)
        curves.write(path, mean)
        means.append(dataclasses.replace(mean, path=str(path), checksum=curves.checksum(path)))
    fitted = uncertainty.attach(_fit(means), means)
    fitted = dataclasses.replace(fitted, details=fitted.details | {"reach": forecast.reach(means), "loss": "heldout/mean"})
    artefact.write(study.folder / "law.json", artefact.tree(fitted, means))
    return fitted


def _fit(train: list[Curve]) -> fit.Fit:
    return fit.fit(catalogue.LAWS[LAW], train, PROTOCOL)


def collect(study: Study) -> dict:
    """Every number of the report from finished runs, law.json and, where there is one, the designed schedule; writes results.json."""
    found = study.runs() + study.designed()
    by_name = read(study, found)
    means = {name: curves.mean(name, of_seeds) for name, of_seeds in by_name.items()}
    law = artefact.load(study.folder / "law.json")
    of_seeds = [_fit([by_name[name][seed] for name in schedules.TRAIN]) for seed in range(study.seeds)]
    trunk = means[schedules.TRUNK].rates
    table = {name: _row(name, means[name], by_name[name], law, of_seeds, trunk) for name in by_name}
    for name, row in table.items():
        row["gap"] = _gap(row, table[schedules.BASELINE])
        curves.write(study.folder / "curves" / f"{name}.csv", means[name])
    unseen = [name for name, row in table.items() if row["role"] != "train"]
    results = {
        "size": {key: value for key, value in dataclasses.asdict(study.size).items() if key != "model"},
        "parameters": flops.parameters(study.size.model),
        "runs": len(found),
        "updates": sum(study.size.steps - runs.taken_over(run) for run in found),
        "seeds": study.seeds,
        "law": {
            "name": law.law.name,
            "formula": law.law.formula,
            "protocol": law.protocol,
            "parameters": law.values,
            "moved": law.details.get("moved"),  # by how many deviations of a prior, where the protocol has one
        },
        "schedules": table,
        "unseen": _over([table[name] for name in unseen]) | {"names": unseen, "rank_correlation": _ranks([table[name] for name in unseen])},
        "laws": _laws(means, unseen, trunk, study.size.starts),
        "comparison": _comparison(study, table),
    }
    (study.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def _row(name: str, mean: Curve, by_seed: list[Curve], law: fit.Fit, seed_fits: list[fit.Fit], trunk: np.ndarray) -> dict:
    own = analysis.own_part(mean, trunk) if name != schedules.TRUNK else np.ones(mean.steps.size, bool)
    predicted, low, high = forecast.predict(law, mean.rates, mean.steps)
    alone = [metrics.predictions(one.law, one.theta, [curve])[0] for one, curve in zip(seed_fits, by_seed, strict=True)]
    role = "train" if name in schedules.TRAIN else "test" if name in schedules.TEST else name if name == schedules.DESIGNED else "baseline"
    return {
        "role": role,
        "label": schedules.label(name),
        "rates": mean.rates.tolist(),
        "steps": mean.steps.tolist(),
        "losses": mean.losses.tolist(),
        "predicted": predicted.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "own_from": int(mean.steps[own][0]),
        "final": analysis.spread([curve.losses[-1] for curve in by_seed]),
        "predicted_final": {"value": float(predicted[-1]), "band": [float(low[-1]), float(high[-1])]},
        "predicted_final_seeds": [float(one[-1]) for one in alone],
        "errors": analysis.errors(mean, predicted, own),
        "seed_errors": analysis.spread([one[-1] - curve.losses[-1] for one, curve in zip(alone, by_seed, strict=True)]),
        "coverage": analysis.coverage(mean, low, high, own),
    }


def _gap(row: dict, baseline: dict) -> dict:
    """Final loss less that of the baseline, actual and predicted; positive where the schedule is worse."""
    actual = np.subtract(row["final"]["seeds"], baseline["final"]["seeds"])
    predicted = row["predicted_final"]["value"] - baseline["predicted_final"]["value"]
    return {"actual": analysis.spread(actual), "predicted": predicted, "error": float(predicted - actual.mean())}


def _over(rows: list[dict]) -> dict:
    """Means over schedules of how far the predictions are off, in nats."""
    return {
        "mae": float(np.mean([row["errors"]["mae"] for row in rows])),
        "final": float(np.mean([abs(row["errors"]["final"]) for row in rows])),
        "bias": float(np.mean([row["errors"]["final"] for row in rows])),
        "gap": float(np.mean([abs(row["gap"]["error"]) for row in rows])),
        "gap_size": float(np.mean([abs(row["gap"]["actual"]["mean"]) for row in rows])),
        "coverage": float(np.mean([row["coverage"] for row in rows])),
        "final_coverage": float(np.mean([_inside(row["final"]["mean"], row["predicted_final"]["band"]) for row in rows])),
        "noise": float(np.mean([np.std(row["final"]["seeds"], ddof=1) for row in rows])) if len(rows[0]["final"]["seeds"]) > 1 else None,
    }


def _inside(value: float, band: list[float]) -> bool:
    return band[0] <= value <= band[1]


def _ranks(rows: list[dict]) -> float:
    """Spearman's correlation of predicted and actual final losses."""
    both = [row["predicted_final"]["value"] for row in rows], [row["final"]["mean"] for row in rows]
    orders = [np.argsort(np.argsort(values)) for values in both]
    return float(np.corrcoef(orders)[0, 1])


def _laws(means: dict[str, Curve], unseen: list[str], trunk: np.ndarray, starts: int) -> list[dict]:
    """Other laws, fitted to the same curves by the minimum of the same objective, on the same unseen schedules."""
    rows = []
    for name in OTHERS:
        fitted = converged.fit(catalogue.LAWS[name], [means[train] for train in schedules.TRAIN], starts)
        baseline, *predicted = metrics.predictions(fitted.law, fitted.theta, [means[one] for one in (schedules.BASELINE, *unseen)])
        own = [analysis.own_part(means[one], trunk) for one in unseen]
        found = [analysis.errors(means[one], values, part) for one, values, part in zip(unseen, predicted, own, strict=True)]
        shift = baseline[-1] - means[schedules.BASELINE].losses[-1]
        rows.append(
            {
                "law": name,
                "protocol": fitted.protocol,
                "objective": fitted.objective,
                "mae": float(np.mean([error["mae"] for error in found])),
                "final": float(np.mean([abs(error["final"]) for error in found])),
                "gap": float(np.mean([abs(error["final"] - shift) for error in found])),
            }
        )
    return rows


def _comparison(study: Study, table: dict[str, dict]) -> dict:
    """The designed schedule against the best of each family, on the larger sample."""
    best = analysis.tuned({name: row["final"]["mean"] for name, row in table.items()}, schedules.families(study.size))
    every = {run.name: [] for run in study.runs() + study.designed()}
    for run in study.runs() + study.designed():
        every[run.name].append(runs.held_out(run, study.size.final_rows))
    pairs = [(schedules.DESIGNED, name) for name in best.values()] + [tuple(reversed(best.values()))]
    found = []
    for first, second in pairs:
        difference = analysis.compare(every[first], every[second])
        predicted = table[first]["predicted_final"]["value"] - table[second]["predicted_final"]["value"]
        names = table[first]["label"], table[second]["label"]
        entry = {"first": first, "second": second, "predicted": predicted, "verdict": analysis.verdict(difference, names)}
        found.append(entry | difference)
    finals = {name: analysis.spread([analysis.loss(run) for run in of_seeds]) for name, of_seeds in every.items()}
    return {"tuned": best, "differences": found, "finals": finals}
