"""Finds mixture weights with a population of proxies: python launch/study_mixture.py --config=configs/proxies/cpu.py --output=runs/mixture

Trains --proxies models on random mixtures of the config's sources, each with the budget of its first phase; fits the regression of
kaiyuan_jax/experiments/mixture.py to all but the last --unseen of them, predicts those, and proposes the mixture with the lowest predicted
mean loss. --seeds new models of that mixture, of equal shares and of the config's shares then say what it is worth. The same command goes
on after a kill. On one GPU: --config=configs/proxies/kaiyuan.py:25m with sources and budget of your own, --proxies=256.
"""

import json
import pathlib

from absl import flags

from kaiyuan_jax import files
from kaiyuan_jax.flags import checked, define_config, run

CONFIG = define_config()
PROXIES = flags.DEFINE_integer("proxies", 32, "Models on random mixtures.", lower_bound=8)
UNSEEN = flags.DEFINE_integer("unseen", 8, "Of these, kept from the regression to be predicted.", lower_bound=0)
SEEDS = flags.DEFINE_integer("seeds", 3, "New models of each mixture that is compared at the end.", lower_bound=2)
ROWS = flags.DEFINE_integer("rows", 128, "Held-out sequences of each source.", lower_bound=8)
OUTPUT = flags.DEFINE_string("output", "runs/mixture", "Folder of the populations, results.json and the report.")


def main(argv):
    base, folder = checked(CONFIG), pathlib.Path(OUTPUT.value)
    from kaiyuan_jax.experiments import mixture_study, population, proxies
    from kaiyuan_jax.report import selection

    study = mixture_study.Study(base, PROXIES.value - UNSEEN.value, UNSEEN.value, SEEDS.value, ROWS.value, folder)
    mixture_study.check(study)
    members = study.proxies()
    print(f"proxies: {population.predict_cost(members)}", flush=True)
    found = proxies.losses(members, folder / "proxies", rows=study.rows, stores=study.stores)
    results = mixture_study.regress(study, found)
    contenders = study.contenders(results["proposed"])
    members = study.confirming(results["proposed"])
    print(f"confirming: {population.predict_cost(members)}", flush=True)
    found = proxies.losses(members, folder / "confirm", rows=study.rows, stores=study.stores)
    results["confirmed"] = mixture_study.confirm(study, found, contenders)
    results |= {"tokens": study.tokens, "seeds": study.seeds, "rows": study.rows}
    files.replace(folder / "results.json", json.dumps(results, indent=1) + "\n")
    print(selection.mixture(folder))


if __name__ == "__main__":
    run(main)
