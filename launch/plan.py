"""Prints what a run will do, before anything is paid for: python launch/plan.py --config=configs/x.py [--config.schedule.end=1e-3]

Phases by source and by domain, limits of domains, exposures by quality, the learning-rate curve, the averaging window, and warnings
about combinations that waste data. A source whose store is not on this machine is planned with its planned_tokens, and the page says
where that size is from. Exit code 2 when the run is impossible.

    python launch/plan.py --config=configs/kaiyuan_2b.py
    python launch/plan.py --config=configs/proxies/kaiyuan.py:100m
"""

from kaiyuan_jax import plan
from kaiyuan_jax.flags import checked, define_config, run

CONFIG = define_config()


def main(argv):
    print(plan.describe(checked(CONFIG)), end="")


if __name__ == "__main__":
    run(main)
