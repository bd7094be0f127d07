"""Writes a store in which a known part is noise.

    python launch/make_control_store.py --store=stores/quickstart/prose/train --output=stores/control/noise_last/train --noise=0,.4

The documents of a store in a random order that is then called quality, and noise at the quantiles named (0 the worst): what a study of
quality must find, and between windows of real text what it must not. Further pairs of quantiles are further ranges of noise.
"""

from absl import flags

from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import run

STORE = flags.DEFINE_string("store", "", "Store whose documents are taken.")
OUTPUT = flags.DEFINE_string("output", "", "Folder of the store to write.")
NOISE = flags.DEFINE_list("noise", ["0", "0.4"], "Pairs of quantiles of token mass between which documents are noise; 0 is the worst.")
STRENGTH = flags.DEFINE_float("strength", 0.5, "Share of such a document's tokens that are replaced by random ones.")
SEED = flags.DEFINE_integer("seed", 0, "Of the order and of the noise.", lower_bound=0)


def main(argv):
    from kaiyuan_jax.data.store import open_store
    from kaiyuan_jax.experiments import noise

    for flag in (STORE, OUTPUT):
        if not flag.value:
            raise UserError(f"--{flag.name}: missing; name the folder of a store")
    try:
        edges = [float(word) for word in NOISE.value]
        pairs = list(zip(edges[::2], edges[1::2], strict=True))
    except ValueError:
        raise UserError(f"--noise: found {','.join(NOISE.value)!r}, must be pairs of numbers, such as 0,0.4") from None
    made = noise.inject(open_store(STORE.value), OUTPUT.value, noise=pairs, strength=STRENGTH.value, seed=SEED.value)
    where = ", ".join(f"{low:g} to {high:g}" for low, high in pairs) or "none"
    print(f"{OUTPUT.value}: {made.manifest.documents:,} documents, {made.tokens:,} tokens, noise at quantiles {where}")


if __name__ == "__main__":
    run(main)
