"""Evaluates models: python launch/evaluate.py --model=runs/x[,runs/x/checkpoints/1200,runs/x/averages/sma_last6]

A run stands for its newest checkpoint; runs/x/checkpoints/1200/average is the running average inside one, where the run keeps it.
Held-out loss, bits per byte, next-passage choice and samples go to runs/x/evaluation/<model>.json. Models of one shape share their
compiled programs, so several are best evaluated in one call.
"""

from absl import flags

from kaiyuan_jax import config
from kaiyuan_jax.flags import run

MODEL = flags.DEFINE_list("model", None, "Folders of runs, checkpoints or averages.", required=True)


def main(argv):
    from kaiyuan_jax.data.store import fingerprint
    from kaiyuan_jax.evaluation import heldout, suite
    from kaiyuan_jax.models import decoder
    from kaiyuan_jax.training import checkpoint, trained

    models = [trained.find("--model", path) for path in MODEL.value]
    for folder, path in models:
        experiment = config.read(folder / "config.json")
        trained_with = fingerprint((folder / "tokenizer.json").read_text(encoding="utf-8"))
        stores = heldout.open_stores(experiment, trained_with)
        graphdef, abstract = decoder.abstract(experiment.model, experiment.precision)
        params = trained.weights(path, abstract)
        holder, item = trained.place(path)
        name = path.name if path.parent.name == "averages" else f"checkpoint_{holder.name}" + f"_{item}" * (item == trained.AVERAGE)
        evaluation = suite.evaluate(graphdef, params, experiment, name=name, step=checkpoint.progress(holder)["step"], stores=stores)
        written = suite.write(folder / "evaluation", evaluation)
        print(describe(evaluation.result))
        print(f"written: {written}\n", flush=True)


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
