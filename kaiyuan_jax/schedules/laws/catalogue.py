"""Every loss law by name."""

from kaiyuan_jax.schedules.laws import baselines, fading, functional_scaling, momentum, multi_exponential, multi_power

LAWS = {
    law.name: law
    for law in (
        multi_power.LAW,
        multi_power.AFTER_WARMUP,
        fading.LAW,
        baselines.ONE_POWER,
        baselines.CHINCHILLA_STEPS,
        baselines.LINEAR,
        multi_exponential.LAW,
        momentum.LAW,
        functional_scaling.LAW,
    )
}
