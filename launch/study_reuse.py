"""What reading text again is worth: python launch/study_reuse.py --output=runs/reuse --stores=stores/a,stores/b

    simulate  E(K, N) of multi-epoch SGD on linear regression, exactly, beside its predicted plateaus and exponents
    train     one long pass, and runs that read N fresh tokens again and again, a few seeds of each, as one population
    evaluate  their held-out losses, by document, after many numbers of epochs
    estimate  E(K, N) with bands, how long reuse pays, the fit of 2305.16264 beside it: reuse.json
    report    report.html, reuse.md and figures

E(K, N) N fresh tokens would have done what K passes over N tokens did (kaiyuan_jax/experiments/reuse). A store folder holds `train` and
`heldout`, as launch/prepare_data.py and prepare_quickstart.py write them. One command does all and says what it will cost; --stage does
one. What is finished is not done again, so the same command resumes. On one GPU: --size=gpu --stores=... with 101M tokens and more.
"""

import dataclasses

from absl import flags

from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import run

STAGES = ("simulate", "train", "evaluate", "estimate", "report")
QUICKSTART = [f"stores/quickstart/{name}" for name in ("prose", "code", "math", "chinese")]

OUTPUT = flags.DEFINE_string("output", "runs/reuse", "Folder for the runs, reuse.json and the report.")
STORES = flags.DEFINE_list("stores", QUICKSTART, "Folders of sources, each with a train and a heldout store, all of one tokenizer.")
SIZE = flags.DEFINE_enum(
    "size", "cpu", ("cpu", "gpu", "quick"), "How large the runs are; quick: shows that everything runs, means nothing."
)
TOKENS = flags.DEFINE_integer("tokens", 0, "Tokens that every run reads; 0: as the size has it.", lower_bound=0)
FRESH = flags.DEFINE_list("fresh", [], "Fresh tokens of the repeated runs, ascending multiples of the first; empty: as the size has it.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Repeats of every run, each with other text, weights and order.", lower_bound=2)
PEAK = flags.DEFINE_float("peak", 0.0, "Learning rate; 0: as the size has it.", lower_bound=0.0)
STAGE = flags.DEFINE_enum("stage", "", ("", *STAGES), "Only this stage; empty: all of them.")


def main(argv):
    if not all(number.isdecimal() and int(number) for number in FRESH.value):
        raise UserError(f"--fresh: found {','.join(FRESH.value)}, must be numbers of tokens such as 16384,32768")
    from kaiyuan_jax.experiments import population
    from kaiyuan_jax.experiments.population.trained import open_population
    from kaiyuan_jax.experiments.reuse import results, simulations, study

    size = study.SIZES[SIZE.value]
    fresh = tuple(int(number) for number in FRESH.value)
    size = dataclasses.replace(size, tokens=TOKENS.value or size.tokens, fresh=fresh or size.fresh, peak=PEAK.value or size.peak)
    one = study.Study(size, SEEDS.value, tuple(STORES.value), OUTPUT.value)
    stages = [STAGE.value] if STAGE.value else list(STAGES)
    if set(stages) & {"train", "evaluate", "estimate"}:
        study.check(one)
    for stage in stages:
        print(f"\n{stage}", flush=True)
        if stage == "simulate":
            simulations.write(one.folder, quick=SIZE.value == "quick")
        elif stage == "train":
            store = study.mix(one)
            print(f"{one.folder / 'store'}: {store.tokens:,} tokens of {store.manifest.documents:,} documents in mixed order", flush=True)
            print(population.predict_cost(one.members(), timed_steps=3), flush=True)
            study.train(one)
        elif stage == "evaluate":
            study.evaluate(one, open_population(one.folder / "population"))
        elif stage == "estimate":
            results.write(one)
        else:
            from kaiyuan_jax.report import reuse

            missing = [name for name in ("simulations.json", "reuse.json") if not (one.folder / name).exists()]
            if missing:
                raise UserError(f"{one.folder}/{missing[0]}: is not there; run the stages before report first")
            print(reuse.build(one.folder))
            print(f"written: {one.folder / 'report.html'}")


if __name__ == "__main__":
    run(main)
