"""Evaluates one model of a run: python launch/evaluate.py --run=runs/x [--checkpoint=1200 | --average=sma_last6]"""

import pathlib

from absl import flags

from kaiyuan_jax import config
from kaiyuan_jax.flags import run

RUN = flags.DEFINE_string("run", None, "Run folder (with config.json and checkpoints/).", required=True)
CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Step of the checkpoint; the newest where neither this nor --average is given.")
AVERAGE = flags.DEFINE_string("average", None, "Name of an average in averages/, as launch/average_checkpoints.py printed it.")


def main(argv):
    from kaiyuan_jax.evaluation import suite
    from kaiyuan_jax.models import decoder
    from kaiyuan_jax.training import checkpoint

    folder = pathlib.Path(RUN.value)
    if not (folder / "config.json").is_file():
        raise config.UserError(f"--run: found no {folder / 'config.json'}, must be the folder of a run; launch/train.py makes one")
    experiment = config.from_json((folder / "config.json").read_text())
    path, name = find(folder, CHECKPOINT.value, AVERAGE.value)
    graphdef, abstract = decoder.abstract(experiment.model, experiment.precision)
    params = checkpoint.load_parameters(path, abstract)
    evaluation = suite.evaluate(graphdef, params, experiment, name=name, step=step_of(folder, path))
    written = suite.write(folder / "evaluation", evaluation)
    print(describe(evaluation.result))
    print(f"written: {written}")


def find(folder: pathlib.Path, step: int | None, average: str | None) -> tuple[pathlib.Path, str]:
    """The folder of the parameters that were asked for, and the name of their evaluation. Raises UserError naming what there is."""
    if step is not None and average is not None:
        raise config.UserError("--checkpoint and --average: found both, give one of them")
    if average is not None:
        kept = sorted(p.name for p in (folder / "averages").glob("*") if p.is_dir())
        if average not in kept:
            raise config.UserError(
                f"--average: found {average!r}, must be one of {', '.join(kept) or '(none yet: launch/average_checkpoints.py)'}"
            )
        return folder / "averages" / average, average
    steps = sorted(int(p.name) for p in (folder / "checkpoints").glob("*") if p.is_dir() and p.name.isdigit())
    if not steps:
        raise config.UserError(f"--run: {folder / 'checkpoints'} holds no checkpoint; train first")
    if step is not None and step not in steps:
        raise config.UserError(f"--checkpoint: found {step}, must be one of {', '.join(map(str, steps))}")
    step = steps[-1] if step is None else step
    return folder / "checkpoints" / str(step), f"checkpoint_{step}"


def step_of(folder: pathlib.Path, path: pathlib.Path) -> int:
    """The step of a checkpoint; of an average, the newest step of the run."""
    if path.name.isdigit():
        return int(path.name)
    return max((int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()), default=0)


def describe(result: dict) -> str:
    """A table of the result for the terminal."""
    lines = [f"{result['experiment']} {result['model']} (step {result['step']})"]
    lines.append(f"{'source':<16}{'nats/token':>11}{'bits/byte':>11}{'95% interval':>18}{'choice':>9}{'95% interval':>16}")
    for source, entry in (result["heldout"] | {"mean": result["mean"]}).items():
        low, high = entry["bits_per_byte_interval"] or (float("nan"),) * 2
        line = f"{source:<16}{entry['loss']:>11.4f}{entry['bits_per_byte']:>11.4f}{f'{low:.4f} {high:.4f}':>18}"
        asked = result["choice"].get(source)
        if asked and asked["accuracy"] is not None:
            low, high = asked["interval"] or (float("nan"),) * 2
            line += f"{asked['accuracy']:>9.3f}{f'{low:.3f} {high:.3f}':>16}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
