"""A model that a CPU core trains in seconds, for studies of many: `--config=configs/proxies/cpu.py[:STORES]`.

Two layers of width 64 over the quickstart's vocabulary of 2,048: 0.36M parameters, of which the embeddings are 0.26M. The recipe is the
published one in small (sandwich norm, soft-cap), the rate constant after its warm-up, so that a checkpoint at half of the budget is what a
run of half the budget would have ended with. On one GPU or more take configs/proxies/kaiyuan.py:25m to :500m (the paper's reference model
for quantile benchmarking has 0.5B) with --config.data.phases[i].tokens or --tokens for the budget.
"""

from kaiyuan_jax import config as c

SOURCES = ("prose", "code", "math", "chinese")
PLANNED = 3_000_000  # tokens of a store that is not there yet


def get_config(stores: str = "") -> c.Experiment:
    """STORES is the folder that launch/prepare_quickstart.py wrote."""
    stores = stores or "stores/quickstart"
    return c.Experiment(
        name="proxy_cpu",
        model=c.Model(layers=2, width=64, feedforward=192, heads=2, kv_heads=1, head_size=32, vocabulary=2048),
        data=c.Data(
            sources=[
                c.Source(name=name, path=f"{stores}/{name}/train", heldout=f"{stores}/{name}/heldout", planned_tokens=PLANNED)
                for name in SOURCES
            ],
            phases=[c.Phase(tokens=160 * 8 * 128, uses=[c.Use(source=name, share=1 / len(SOURCES)) for name in SOURCES])],
            sequence_length=128,
            batch_size=8,
        ),
        schedule=c.Schedule(kind="constant", peak=5e-3, warmup=16),
        checkpoint=c.Checkpoint(every=40, keep=2),
        evaluation=c.Evaluation(rows=64, batch_size=32, questions=0, samples=0),
        logging=c.Logging(tensorboard=False),
    )
