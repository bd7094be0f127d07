"""Sixteen proxies of about 5M parameters in one program, beside the same proxies one after the other.

Alone, such a model's products are too small for the device: 8 rows of 512 tokens and a width of 256 are 4 x 2 output tiles of 1024 x 128 a
product, for some hundred multiprocessors. Sixteen members are sixteen times as many tiles in one kernel, and one launch instead of sixteen.
"""

from kaiyuan_jax import config
from kaiyuan_jax.experiments.accelerator.child import Job
from kaiyuan_jax.experiments.population import speed

MEMBERS = 16
SHAPE = dict(layers=5, width=256, feedforward=768, heads=4, kv_heads=2, head_size=64, vocabulary=2048)  # 5.0M parameters
SIZES = ((8, 512, "bfloat16"), (32, 512, "bfloat16"), (8, 512, "float32"))  # rows, length, compute


def measure(job: Job) -> None:
    members, sizes = (4, ((2, 32, "bfloat16"),)) if job.tiny else (MEMBERS, SIZES)
    for rows, length, compute in sizes:
        shape = SHAPE | (dict(layers=1, width=64, feedforward=64, vocabulary=256) if job.tiny else {})
        experiment = config.Experiment(
            model=config.Model(**shape),
            data=config.Data(batch_size=rows, sequence_length=length),
            precision=config.Precision(compute=compute),
        )

        def work(experiment=experiment):
            return speed.compare(experiment, members, rounds=2 if job.tiny else 9)

        job.attempt(work, needs=2.0 if job.tiny else 15.0)
