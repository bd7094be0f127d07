"""How protocol `robust` was made and what it is worth: the numbers of its prior from one model size, tested on another.

    python launch/study_laws.py --curves=csv_25,csv_100 --output=docs/results/robust.md

Each folder holds the same nine schedules of one model size, as released with 2503.12811. For every size the kernel's prior is made of the
*other* sizes' nine curves, the law is fitted to this size's three training curves, and its six test curves are looked at once. Beside it:
the same with the prior that is shipped (made of all sizes), the other protocols, the floor (each law fitted to all nine curves of the
size it is tested on), and what was tried and did not help. Under a minute.
"""

import dataclasses
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from kaiyuan_jax import files
from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import run

CURVES = flags.DEFINE_list("curves", None, "Folders of released curves, one model size each.", required=True)
TRAIN_ON = flags.DEFINE_list("train", ["cosine_24000", "constant_24000", "wsdcon_9"], "Names of the training curves.")
GAP = flags.DEFINE_list("gap", ["cosine_24000", "wsd_20000_24000"], "Two curves of equal length whose final losses are compared.")
OUTPUT = flags.DEFINE_string("output", "", "Markdown file for the tables; default: printed only.")


SETS = (  # which training curves help most: one to four of the nine
    ("cosine_24000",),
    ("cosine_24000", "constant_24000"),
    ("constant_24000", "wsdcon_9"),
    ("constant_24000", "wsd_20000_24000"),
    ("cosine_24000", "wsdcon_9"),
    ("constant_24000", "wsdcon_3", "wsdcon_18"),
    ("cosine_24000", "constant_24000", "wsdcon_9"),
    ("cosine_24000", "constant_24000", "wsdcon_9", "wsd_20000_24000"),
)


@dataclasses.dataclass(frozen=True)
class Size:
    """The curves of one model size."""

    name: str
    train: list
    test: list

    @property
    def curves(self) -> list:
        return [*self.train, *self.test]


def main(argv):
    del argv
    if len(CURVES.value) < 2:
        raise UserError(f"--curves: found {len(CURVES.value)} folder, must be two or more sizes; each is tested with what the others show")
    if OUTPUT.value and not Path(OUTPUT.value).parent.is_dir():
        raise UserError(f"--output={OUTPUT.value}: must lie in a folder that exists")
    from kaiyuan_jax.schedules.laws import fading, multi_power, robust

    sizes = [read(Path(folder)) for folder in CURVES.value]
    bar = tqdm(total=(17 + 2 * len(SETS)) * len(sizes), unit="fit", disable=None)
    nine = {size.name: floor(fading.LAW, size, bar) for size in sizes}
    plain = {size.name: floor(multi_power.AFTER_WARMUP, size, bar) for size in sizes}
    rows, sets, covered, shapes = [], [], [], [[size.name, *(f"{value:.3f}" for value in nine[size.name].theta[-4:])] for size in sizes]
    for size in sizes:
        others = [nine[name] for name in nine if name != size.name]
        prior = robust.prior_of(others, "other sizes")
        honest = fitted(robust.fit, fading.LAW, size, bar, prior=prior)
        rows.append((size, "`robust`, prior of the other sizes", honest))
        rows.append((size, "`robust`, as shipped", fitted(robust.fit, fading.LAW, size, bar)))
        rows += [(size, f"`{name}`", fit) for name, fit in protocols(size, bar)]
        rows.append((size, "floor: multi-power law, all nine curves", plain[size.name]))
        rows.append((size, "floor: with a fading gain, all nine curves", nine[size.name]))
        others_plain = [plain[name] for name in plain if name != size.name]
        rows += [(size, f"tried: {name}", fit) for name, fit in tried(size, prior, others_plain, bar)]
        sets += training_sets(size, prior, bar)
        covered += coverage(size, honest)
    bar.close()
    text = page(rows, shapes, sets, covered)
    print(text)
    if OUTPUT.value:
        files.replace(OUTPUT.value, text)


def read(folder: Path) -> Size:
    """The curves of one folder; the warm-up ends where the earliest of them begins."""
    from kaiyuan_jax.schedules.laws import curves

    paths = sorted(folder.glob("*.csv"))
    missing = [name for name in {*TRAIN_ON.value, *GAP.value} if not (folder / f"{name}.csv").is_file()]
    if missing:
        raise UserError(f"--curves: {folder} holds no {missing[0]}.csv; it must hold the released curves, --train and --gap among them")
    samples = [curves.read(path) for path in paths]
    earliest = min(int(sample.steps[0]) for sample in samples)
    found = {sample.name: curves.assemble(sample, assumed=earliest)[0] for sample in samples}
    train = [found[name] for name in TRAIN_ON.value]
    return Size(folder.name, train, [curve for name, curve in found.items() if name not in TRAIN_ON.value])


def fitted(fit, law, size: Size, bar, **options):
    found = fit(law, size.train, **options)
    bar.update()
    return found


def floor(law, size: Size, bar):
    """The law fitted to all curves of a size: as good as its form allows under this objective."""
    from kaiyuan_jax.schedules.laws import converged

    found = converged.fit(law, size.curves, starts=8)
    bar.update()
    return found


def protocols(size: Size, bar):
    from kaiyuan_jax.schedules.laws import converged, fading, multi_power, reference

    yield "reference", fitted(reference.fit, multi_power.LAW, size, bar)
    yield "converged", fitted(converged.fit, multi_power.LAW, size, bar, starts=16)
    yield "converged, fading gain", fitted(converged.fit, fading.LAW, size, bar, starts=16)


def tried(size: Size, prior, others_plain, bar):
    """What was tried, each as honest as `robust` itself: nothing of this size but its training curves."""
    from kaiyuan_jax.schedules.laws import fading, huber, robust

    reference = np.log(fading.RATE)
    shape = np.mean([[fit.theta[4] - fit.theta[6] * reference, fit.theta[5], fit.theta[6], 0.0] for fit in others_plain], axis=0)
    without = robust.Prior(shape, np.array([*robust.DEVIATION[:3], 1e-6]), "other sizes, no fading")
    yield "the same prior without fading", fitted(robust.fit, fading.LAW, size, bar, prior=without)
    for factor in (0.1, 0.3, 3.0, 10.0):
        other = dataclasses.replace(prior, deviation=robust.DEVIATION * factor)
        yield f"prior's deviations times {factor:g}", fitted(robust.fit, fading.LAW, size, bar, prior=other)
    prepared = fading.LAW.prepare(size.train)
    losses, steps = (np.concatenate([getattr(curve, field) for curve in size.train]) for field in ("losses", "steps"))
    mean, precision = robust.objective_prior(prior)
    start = robust.fit(fading.LAW, size.train, prior=prior)
    variants = {
        "points before step 8,000 weighted by step / 8,000": dict(weights=np.minimum(1, steps / 8000)),
        "by its square": dict(weights=np.minimum(1, steps / 8000) ** 2),
        "every curve the same weight": dict(weights=np.concatenate([np.full(c.steps.size, 150 / c.steps.size) for c in size.train])),
        "squares instead of Huber (delta 1)": dict(delta=1.0),
        "a prior for alpha: other sizes, deviation 0.05": dict(alpha=0.05),
    }
    alpha = np.mean([fit.theta[2] for fit in others_plain])
    for name, options in variants.items():
        centre, strength = mean.copy(), precision.copy()
        if deviation := options.pop("alpha", 0):
            centre[2], strength[2, 2] = alpha, robust.VARIANCE / deviation**2
        found = huber.minimise(fading.LAW, prepared, losses, start.theta, prior=(centre, strength), **options)
        bar.update()
        yield name, dataclasses.replace(start, theta=found.theta)


def training_sets(size: Size, prior, bar):
    """Other choices of training curves, by `robust` and at the objective's minimum; tested on all the rest."""
    from kaiyuan_jax.schedules.laws import converged, fading, metrics, multi_power, robust

    for names in SETS:
        train = [curve for curve in size.curves if curve.name in names]
        test = [curve for curve in size.curves if curve.name not in names]
        row = [size.name, " + ".join(names)]
        for fit in (robust.fit(fading.LAW, train, prior=prior), converged.fit(multi_power.LAW, train, starts=12)):
            mean = metrics.measure(fit.law, fit.theta, train, test, [])["mean"]
            row += [f"{mean[key]:.5f}" for key in ("mae", "rmse", "worste")]
            bar.update()
        yield row


def coverage(size: Size, fit):
    """How much of the test curves the 90% band of the honest fit holds, for several deviations of the law's own error."""
    from kaiyuan_jax.schedules.laws import forecast, uncertainty

    banded = uncertainty.attach(fit, size.train)
    for scale in (0.0, 0.5e-3, uncertainty.MODEL, 2e-3):
        here = dataclasses.replace(banded, bands=banded.bands | {"model": {"scale": scale}})
        shares = []
        for curve in size.test:
            _, low, high = forecast.predict(here, curve.rates, curve.steps)
            shares.append(np.mean((curve.losses >= low) & (curve.losses <= high)))
        yield [size.name, f"{scale:g}", f"{np.mean(shares):.2f}", *(f"{share:.2f}" for share in shares)]


def page(rows, shapes, sets, covered) -> str:
    from kaiyuan_jax.schedules.laws import metrics

    body = []
    for size, label, fit in rows:
        measured = metrics.measure(fit.law, fit.theta, size.train, size.test, [tuple(GAP.value)])
        gap, mean = next(iter(measured["pairs"].values())), measured["mean"]
        final = np.mean([abs(row["final_loss_error"]) for row in measured["curves"].values()])
        body.append(
            [size.name, label, f"{mean['r2']:.5f}", *(f"{mean[key]:.5f}" for key in ("mae", "rmse", "prede", "worste")), f"{final:.4f}"]
            + [f"{gap['predicted_gap']:.3f} ({gap['actual_gap']:.3f})"]
        )
    head = ["size", "fit", "R2", "MAE", "RMSE", "PredE", "WorstE", "final error", f"{GAP.value[0]} - {GAP.value[1]} at the end (actual)"]
    names = [curve.name for curve in rows[0][0].test]
    command = f"python launch/study_laws.py --curves={','.join(Path(folder).name for folder in CURVES.value)}"
    return "\n".join(
        [
            "# The robust protocol",
            "",
            f"Command: `{command}`. Means over the test curves {', '.join(names)}; trained on {', '.join(TRAIN_ON.value)}.",
            "Final error: mean size of the error of the last five points. What these tables say, and what they are no test of:",
            "docs/laws.md, *What `robust` is worth*.",
            "",
            *table(head, body),
            "",
            "Shapes that all nine curves of each size show, of which the prior is the mean (ln C, beta, gamma, fading):",
            "",
            *table(["size", "ln C", "beta", "gamma", "fading"], shapes),
            "",
            "Other training curves, tested on all the rest; `robust` with the prior of the other sizes, and the multi-power law's minimum:",
            "",
            *table(["size", "trained on", *(f"{fit} {key}" for fit in ("robust", "converged") for key in ("MAE", "RMSE", "WorstE"))], sets),
            "",
            "Share of the points of each test curve inside the 90% band of `robust` with the prior of the other sizes, by the deviation",
            "(of ln loss) that the law itself is given:",
            "",
            *table(["size", "law's own deviation", "mean", *names], covered),
            "",
        ]
    )


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


if __name__ == "__main__":
    run(main)
