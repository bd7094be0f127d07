"""The quickstart: a 1.3M-parameter decoder on four sources of real text, trained in about a minute on two CPU cores.

`--config=configs/quickstart.py:VARIANT` picks one recipe; all variants see the same number of tokens from the same sources in the
same shares, start from the same weights, and differ only in what their name says:

    uniform_cosine       shuffled, cosine decay to near zero: the common default
    uniform_wsd          shuffled, warm-up-stable-decay to near zero: the baseline of 2511.18903
    ascending_wsd        worst text first, decay to near zero: the best text meets the lowest rates
    ascending_moderate   worst text first, decay to a third of the peak, average of the last checkpoints (CDMA)

A repeat of a recipe for a look at noise: `--config.seed=1 --config.data.seed=1 --config.name=quickstart_ascending_wsd_seed1`.
"""

from kaiyuan_jax import config as c

# share of the training tokens, and tokens in the store: what to plan with before it is prepared
SOURCES = {"prose": (0.3, 2_681_478), "code": (0.3, 3_204_772), "math": (0.2, 3_456_044), "chinese": (0.2, 3_236_777)}
VARIANTS = {
    "uniform_cosine": ("uniform", c.Schedule(kind="cosine", end=1e-5), "none"),
    "uniform_wsd": ("uniform", c.Schedule(kind="wsd", decay=0.3, end=1e-5), "none"),
    "ascending_wsd": ("ascending", c.Schedule(kind="wsd", decay=0.3, end=1e-5), "none"),
    "ascending_moderate": ("ascending", c.Schedule(kind="wsd", decay=0.3, end=1e-3), "ema"),
}


def get_config(choice: str = "uniform_cosine") -> c.Experiment:
    """`VARIANT` or `VARIANT,STORES` with the folder that launch/prepare_quickstart.py wrote."""
    variant, _, stores = choice.partition(",")
    stores = stores or "stores/quickstart"
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} unknown, must be one of {', '.join(VARIANTS)}")
    order, schedule, average = VARIANTS[variant]
    schedule.peak, schedule.warmup = 3e-3, 20
    return c.Experiment(
        name=f"quickstart_{variant}",
        model=c.Model(layers=4, width=128, feedforward=384, heads=4, kv_heads=2, head_size=32, vocabulary=2048),
        data=c.Data(
            sources=[
                c.Source(name=name, path=f"{stores}/{name}/train", heldout=f"{stores}/{name}/heldout", planned_tokens=tokens)
                for name, (_, tokens) in SOURCES.items()
            ],
            phases=[
                c.Phase(
                    order=order,
                    tokens=200 * 16 * 128,
                    uses=[c.Use(source=name, share=share) for name, (share, _) in SOURCES.items()],
                )
            ],
            sequence_length=128,
            batch_size=16,
        ),
        schedule=schedule,
        checkpoint=c.Checkpoint(every=8, keep=6),
        averaging=c.Averaging(kind=average, last=6, alpha=0.2),
        evaluation=c.Evaluation(every=100, rows=128, questions=50),
    )
