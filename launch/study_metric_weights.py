"""Does it pay to weigh checkpoints by their loss? python launch/study_metric_weights.py --populations=runs/a/population,runs/b/population

Averages the last checkpoints of every member of populations that were trained before, all alike and by weights that fall with the held-out
loss of each (kaiyuan_jax/averaging/weights.py, `launch/average_checkpoints.py --kind=metric`). Weights are chosen on one half of the
held-out documents and judged on the other. Trains nothing.
"""

import json
import pathlib

from absl import flags

from kaiyuan_jax import config, files
from kaiyuan_jax.flags import run

POPULATIONS = flags.DEFINE_list("populations", None, "Folders of populations that keep enough checkpoints.", required=True)
LAST = flags.DEFINE_integer("last", 6, "Checkpoints in the average.", lower_bound=2)
TEMPERATURES = flags.DEFINE_list("temperatures", ["0.1", "0.03", "0.01", "0.003"], "In nats per token.")
ROWS = flags.DEFINE_integer("rows", 256, "Held-out sequences of each source.", lower_bound=8)
OUTPUT = flags.DEFINE_string("output", "runs/metric_weights", "Folder of results.json and the report.")


def main(argv):
    try:
        temperatures = [float(value) for value in TEMPERATURES.value]
    except ValueError:
        raise config.UserError(f"--temperatures={','.join(TEMPERATURES.value)}: must be numbers such as 0.1,0.01") from None
    if not temperatures or not min(temperatures) > 0:
        raise config.UserError(f"--temperatures={','.join(TEMPERATURES.value)}: must be one or more numbers above 0")
    if not POPULATIONS.value:
        raise config.UserError("--populations: found none, must name folders of populations")
    from kaiyuan_jax.experiments import metric_weights
    from kaiyuan_jax.experiments.population import trained
    from kaiyuan_jax.report import selection

    found, folder = [], pathlib.Path(OUTPUT.value)
    for name in POPULATIONS.value:
        opened = trained.open_population(name)
        stores = {source.name: source.heldout for one in opened.members for source in one.data.sources if source.heldout}
        one = metric_weights.study(opened, last=LAST.value, temperatures=temperatures, rows=ROWS.value, stores=stores)
        found.append(one | {"population": name})
    folder.mkdir(parents=True, exist_ok=True)
    results = {"populations": found, "last": LAST.value, "rows": ROWS.value}
    files.replace(folder / "results.json", json.dumps(results, indent=1) + "\n")
    print(selection.metric_weights(folder))


if __name__ == "__main__":
    run(main)
