"""Tokens a second of generated text: on the cache, and by reading the whole text for every token, which is what a cache saves.

    python launch/benchmark_decoding.py --width=256 --layers=8 --prompt=128,448 --tokens=64 --rows=8

Reading again is the loop that launch/generate.py had before the cache: one forward pass over prompt and text, padded to their full length,
for each token. Both draw the same greedy tokens, which is checked; both are timed on one device after a first run that compiles them, by
turns, and the best of --repeats is taken.
"""

import functools
import json
import time

from absl import flags

from kaiyuan_jax import config, files
from kaiyuan_jax.flags import run

LAYERS = flags.DEFINE_integer("layers", 8, "Layers of the model.", lower_bound=1)
WIDTH = flags.DEFINE_integer(
    "width", 256, "Its width; 64 a head, two query heads a key head, three times the width in between.", lower_bound=128
)
VOCABULARY = flags.DEFINE_integer("vocabulary", 4096, "Its vocabulary.", lower_bound=2)
PROMPT = flags.DEFINE_list("prompt", ["128", "448"], "Tokens of the prompts, one measurement each.")
TOKENS = flags.DEFINE_integer("tokens", 64, "Tokens generated for each.", lower_bound=2)
ROWS = flags.DEFINE_integer("rows", 8, "Texts at a time.", lower_bound=1)
COMPUTE = flags.DEFINE_enum("compute", "float32", ["float32", "bfloat16", "float16"], "Dtype of products and cache.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of each.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", "", "Where the figures go, such as decoding.json; empty: printed alone.")


def main(argv):
    del argv
    files.check_target("output", OUTPUT.value, ".json")
    if not all(item.isdigit() and int(item) for item in PROMPT.value):
        raise config.UserError(f"--prompt={','.join(PROMPT.value)}: must be numbers of tokens, at least 1, with commas between them")
    import jax
    import numpy as np

    from kaiyuan_jax.evaluation import generate
    from kaiyuan_jax.models import decoder
    from kaiyuan_jax.sharding import mesh, rules

    heads = WIDTH.value // 64
    shape = dict(
        layers=LAYERS.value, width=WIDTH.value, feedforward=3 * WIDTH.value, heads=heads, kv_heads=max(1, heads // 2), head_size=64
    )
    model, precision = config.Model(**shape, vocabulary=VOCABULARY.value), config.Precision(compute=COMPUTE.value)
    place = rules.placement(mesh.make_mesh(config.Mesh(data=1), jax.devices()[:1]))
    graphdef, _ = decoder.abstract(model, precision)
    params = jax.jit(lambda key: decoder.ready(decoder.split(decoder.build(model, precision, key))[1], precision))(jax.random.key(0))
    keys_B = jax.random.split(jax.random.key(0), ROWS.value)
    greedy = dict(eod=-1, vocabulary=VOCABULARY.value, temperature=0.0, top_p=1.0)
    rows = []
    print(f"{jax.devices()[0].device_kind}, {COMPUTE.value}, {ROWS.value} rows, {TOKENS.value} tokens each")
    print(f"{'prompt':>8}{'cached tokens/s':>18}{'read again tokens/s':>22}{'ratio':>8}")
    for length in map(int, PROMPT.value):
        tokens_BL = np.random.default_rng(0).integers(0, VOCABULARY.value, (ROWS.value, length)).astype(np.int32)
        lengths_B = np.full(ROWS.value, length, np.int32)
        cached = functools.partial(generate.continuations, graphdef=graphdef, new_tokens=TOKENS.value, place=place, **greedy)
        again = functools.partial(read_again, graphdef=graphdef, new_tokens=TOKENS.value, place=place)
        ways = {"cached": lambda: cached(params, tokens_BL, lengths_B, keys_B)[0], "again": lambda: again(params, tokens_BL)}  # noqa: B023
        best, texts = measure(ways)
        rate = {name: ROWS.value * TOKENS.value / seconds for name, seconds in best.items()}
        same = float(np.mean(np.asarray(texts["cached"]) == np.asarray(texts["again"])))
        rows.append({"prompt": length, **rate, "ratio": rate["cached"] / rate["again"], "equal_tokens": same})
        print(
            f"{length:>8}{rate['cached']:>18,.0f}{rate['again']:>22,.0f}{rows[-1]['ratio']:>8.1f}"
            + f"  {same:.1%} of tokens equal" * (same < 1)
        )
    if OUTPUT.value:
        settings = {"model": shape, "rows": ROWS.value, "tokens": TOKENS.value, "compute": COMPUTE.value, "jax": jax.__version__}
        facts = settings | {"device": jax.devices()[0].device_kind, "measured": rows}
        files.replace(OUTPUT.value, json.dumps(facts, indent=1) + "\n")
        print(f"written: {OUTPUT.value}")


def measure(ways: dict) -> tuple[dict, dict]:
    """({name: fewest seconds}, {name: result}) of functions run by turns, after one run of each that compiles it."""
    import jax

    results = {name: jax.block_until_ready(way()) for name, way in ways.items()}
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(REPEATS.value):
        for name, way in ways.items():
            started = time.perf_counter()
            jax.block_until_ready(way())
            best[name] = min(best[name], time.perf_counter() - started)
    return best, results


def read_again(params, tokens_BL, *, graphdef, new_tokens: int, place):
    """int32[B, new_tokens]: the greedy tokens, each by a forward pass over the whole text."""
    import jax.numpy as jnp
    import numpy as np

    B, length = tokens_BL.shape
    text_BL = np.concatenate([tokens_BL, np.zeros((B, new_tokens), np.int32)], axis=1)
    for end in range(length, length + new_tokens):
        text_BL[:, end] = _likeliest()(params, jnp.asarray(text_BL), end, graphdef=graphdef, place=place)
    return text_BL[:, length:]


@functools.cache
def _likeliest():
    """The jitted `(params, text_BL, end) -> int32[B]`, the likeliest token after the first `end`; jax is imported when it is called for."""
    import jax
    import jax.numpy as jnp

    from kaiyuan_jax.models import decoder

    def likeliest(params, text_BL, end, *, graphdef, place):
        model = decoder.merge(graphdef, params)
        positions_BL = jnp.broadcast_to(jnp.arange(text_BL.shape[1], dtype=jnp.int32), text_BL.shape)
        x_BLD = model(text_BL, jnp.ones_like(text_BL), positions_BL, place)
        return jnp.argmax(model.logits(x_BLD[:, end - 1]), axis=-1).astype(jnp.int32)

    return jax.jit(likeliest, static_argnames=("graphdef", "place"))


if __name__ == "__main__":
    run(main)
