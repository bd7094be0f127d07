"""Compiles a training step for accelerators that are not here: python launch/compile_for.py --target=v5e:4x4 --config=configs/x.py

Says whether the step fits, and what it needs: bytes by category, FLOPs, collectives, the roofline's tokens/s. Compilers come from
`make targets`. Every target is compiled in a process of its own, one after the other.

    python launch/compile_for.py --target=v5e:4x4,hopper:8 --config=configs/kaiyuan_2b.py --batch_per_chip=1
    python launch/compile_for.py --target=v5p:4x4x4 --config=configs/kaiyuan_2b.py --batch_per_chip=4 --config.model.remat=none

--config.mesh says how chips are used; data.batch_size is not read. --output adds the results to a JSON file and writes the table of all
that it holds beside it (.md).
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

from absl import flags as absl_flags
from tqdm import tqdm

from kaiyuan_jax import config, flags
from kaiyuan_jax.files import check_target, replace
from kaiyuan_jax.plan import ahead_of_time_table as table
from kaiyuan_jax.sharding import topology

CONFIG = flags.define_config()
TARGET = absl_flags.DEFINE_list("target", [], "What to compile for: v5e:4x4, v5p:8x8x4, v6e:8x8, hopper:8 ...; several with commas.")
ROWS = absl_flags.DEFINE_integer("batch_per_chip", 1, "Sequences of a chip in a step.", lower_bound=1)
OUTPUT = absl_flags.DEFINE_string("output", "", "JSON file to add the results to; its table is written beside it. Empty: printed only.")
HLO = absl_flags.DEFINE_string("hlo", "", "Folder for the text of the compiled programs; empty: not kept.")
TIMEOUT = absl_flags.DEFINE_integer("timeout", 3600, "Seconds after which a compilation is given up.", lower_bound=1)


def main(argv):
    experiment = flags.checked(CONFIG)
    check_target("output", OUTPUT.value, ".json")
    if HLO.value and not Path(HLO.value).is_dir():
        raise config.UserError(f"--hlo={HLO.value}: must be a folder that exists")
    if not TARGET.value:
        raise config.UserError("--target: missing; name what to compile for, such as --target=v5e:4x4 or --target=hopper:8")
    targets = [topology.target(name) for name in TARGET.value]
    for target in targets:
        topology.environment(target)  # refuses a compiler that is not here before anything is compiled
        if ROWS.value % target.chip.devices:
            raise config.UserError(f"--batch_per_chip={ROWS.value}: JAX lists a {target.chip.name} as two devices; must be even")
    for target in tqdm(targets, unit="target", disable=None):
        rows = ROWS.value // target.chip.devices
        text = str(Path(HLO.value).absolute() / f"{target.name.replace(':', '_')}.txt") if HLO.value else ""
        arguments = {"experiment": config.to_json(experiment), "rows": rows, "text": text}
        try:
            result = topology.call(target, "kaiyuan_jax.plan.ahead_of_time:measure", arguments, timeout=TIMEOUT.value)
        except subprocess.TimeoutExpired:
            raise config.UserError(f"--timeout={TIMEOUT.value}: {target.name} was not compiled by then; give more seconds") from None
        command = shlex.join(["python", *(part for part in sys.argv if not part.startswith(("--target", "--output", "--hlo")))])
        result |= {"command": f"{command} --target={target.name}", "rows": ROWS.value, "remat": experiment.model.remat}
        tqdm.write(table.page(target.name, result))
        if OUTPUT.value:
            path = Path(OUTPUT.value)
            kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            kept[target.name] = result
            replace(path, json.dumps(kept, indent=1) + "\n")
            replace(path.with_suffix(".md"), table.document(kept))


if __name__ == "__main__":
    flags.run(main)
