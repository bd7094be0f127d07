"""What quality sampling with a temperature does: python launch/study_sampling.py --config=configs/proxies/cpu.py --stores=stores/a,stores/b

Of every store, a small model reads the budget of the config's first phase: all alike, sampled at each of --temperatures
(config.data.phases[i].uses[j].temperature, kaiyuan_jax/data/sampling.py), or the best text alone; --seeds times each, as one population. A
store is FOLDER with train/ and heldout/, or TRAIN:HELDOUT. The same command goes on after a kill. For more, --config of a larger proxy.
"""

import dataclasses
import json
import pathlib

from absl import flags

from kaiyuan_jax import config, files
from kaiyuan_jax.flags import checked, define_config, run

CONFIG = define_config()
STORES = flags.DEFINE_list("stores", None, "Stores to sample from: FOLDER with train/ and heldout/, or TRAIN:HELDOUT.", required=True)
TEMPERATURES = flags.DEFINE_list("temperatures", ["0.5", "1", "2"], "Temperatures, in standard deviations of quality.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Models of each setting.", lower_bound=2)
ROWS = flags.DEFINE_integer("rows", 256, "Held-out sequences of each store.", lower_bound=8)
OUTPUT = flags.DEFINE_string("output", "runs/sampling", "Folder of the population, results.json and the report.")


def main(argv):
    base, stores, asked, folder = checked(CONFIG), named(STORES.value), temperatures(), pathlib.Path(OUTPUT.value)
    from kaiyuan_jax.experiments import population, proxies, sampling_study
    from kaiyuan_jax.report import selection

    made = sampling_study.cells(base, stores, asked, SEEDS.value)
    members = [cell.experiment for cell in made]
    print(population.predict_cost(members), flush=True)
    heldout = {name: place for name, (_, place) in stores.items()}
    found = proxies.losses(members, folder / "population", rows=ROWS.value, stores=heldout)
    results = {"rows": sampling_study.collect(found, made, asked), "seeds": SEEDS.value, "stores": stores}
    results |= {"tokens": members[0].data.phases[0].tokens, "model": dataclasses.asdict(members[0].model)}
    files.replace(folder / "results.json", json.dumps(results, indent=1) + "\n")
    print(selection.sampling(folder))


def named(entries: list[str]) -> dict[str, tuple[str, str]]:
    """Name -> (training store, held-out store). Raises UserError for one that is not there."""
    found = {}
    for entry in entries:
        train, _, heldout = entry.partition(":")
        pair = (train, heldout) if heldout else (f"{train}/train", f"{train}/heldout")
        for place in pair:
            if not pathlib.Path(place, "manifest.json").is_file():
                raise config.UserError(f"--stores={entry}: {place} is no store; name FOLDER with train/ and heldout/, or TRAIN:HELDOUT")
        path = pathlib.Path(train)
        name = path.parent.name if path.name == "train" else path.name
        if name in found:
            raise config.UserError(f"--stores={entry}: {name} is the name of another store too; rename the folder")
        found[name] = pair
    return found


def temperatures() -> list[float]:
    try:
        found = [float(value) for value in TEMPERATURES.value]
    except ValueError:
        raise config.UserError(f"--temperatures={','.join(TEMPERATURES.value)}: must be numbers such as 0.5,1,2") from None
    if not found or not min(found) > 0:
        raise config.UserError(f"--temperatures={','.join(TEMPERATURES.value)}: must be one or more numbers above 0")
    return found


if __name__ == "__main__":
    run(main)
