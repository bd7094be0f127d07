"""Prints what a run will do, before anything is paid for: python launch/plan.py --config=configs/x.py [--config.schedule.end=1e-3]

Phases by source and by domain, limits of domains, exposures by quality, what is read again and what that is worth, the learning-rate
curve, the averaging window, and warnings about combinations that waste data. A source whose store is not on this machine is planned with
its planned_tokens, and the page says where that size is from. Exit code 2 when the run is impossible.

    python launch/plan.py --config=configs/kaiyuan_2b.py
    python launch/plan.py --config=configs/proxies/kaiyuan.py:100m

With --target also what a machine makes of it: whether it fits, by category, and what to change when it does not; a band of tokens/s,
days and cost; what --hours buy; the same on other machines; bytes and traffic of checkpoints. Arithmetic, in seconds; --compile compiles
the whole step that it recommends (minutes; compilers by `make targets`) and keeps the result in build/compiled.

    python launch/plan.py --config=configs/kaiyuan_2b.py --target=v5p:4x4x4 --hours=336 --price=v5p:4.2,v6e:2.7 --html=plan.html
    python launch/plan.py --config=configs/kaiyuan_2b.py --target=v6e --chips=64 --compile
    python launch/plan.py --estimates       # the arithmetic beside every step that was compiled (docs/results/plan.md)
"""

from absl import flags as absl_flags

from kaiyuan_jax import plan, storage
from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import checked, define_config, run

CONFIG = define_config()
TARGET = absl_flags.DEFINE_string("target", "", "Machine: v5p:4x4x4, v6e:8x8, hopper:64 ..., or its kind alone with --chips.")
CHIPS = absl_flags.DEFINE_integer("chips", 0, "Number of chips, where --target does not say.", lower_bound=0)
HOURS = absl_flags.DEFINE_float("hours", 0.0, "Hours that can be paid for; 0: not asked.", lower_bound=0.0)
PRICE = absl_flags.DEFINE_list("price", [], "Price of a chip-hour: a number, or one for every kind as in v5p:4.2,v6e:2.7.")
WHAT_IF = absl_flags.DEFINE_list("what_if", None, "Other machines to compare with; a usual few when not given.")
HTML = absl_flags.DEFINE_string("html", "", "File for the page as HTML; empty: none.")
COMPILE = absl_flags.DEFINE_bool("compile", False, "Compile the step that the page recommends.")
ESTIMATES = absl_flags.DEFINE_bool("estimates", False, "Print how far estimates are from compiled steps, and nothing else.")
TIMEOUT = absl_flags.DEFINE_integer("timeout", 3600, "Seconds after which the compilation is given up.", lower_bound=1)


def main(argv):
    if ESTIMATES.value:
        from kaiyuan_jax.plan import accuracy, section

        print(section.text(accuracy.section()))
        return
    experiment = checked(CONFIG)
    storage.check("--config.output", experiment.folder)
    if TARGET.value:
        on_machine(experiment)
        return
    for flag in (CHIPS, HOURS, PRICE, WHAT_IF, HTML, COMPILE):
        if flag.value:
            raise UserError(f"--{flag.name}: needs a machine; name one, such as --target=v5p:4x4x4")
    print(plan.describe(experiment), end="")


def on_machine(experiment):
    from kaiyuan_jax.files import check_target, replace
    from kaiyuan_jax.plan import compiled, document, machine
    from kaiyuan_jax.sharding import topology

    check_target("html", HTML.value, ".html")
    target = machine.named(TARGET.value, CHIPS.value)
    prices = machine.prices(PRICE.value, target)
    elsewhere = [topology.target(name, "what_if") for name in (machine.ELSEWHERE if WHAT_IF.value is None else WHAT_IF.value)]
    plan.describe(experiment)  # refuses what cannot run before minutes are spent
    if COMPILE.value:
        compiled.ensure(experiment, target, TIMEOUT.value)
    page = document.describe(experiment, target, hours=HOURS.value, prices=prices, elsewhere=elsewhere)
    print(page.text(), end="")
    if HTML.value:
        replace(HTML.value, page.html())


if __name__ == "__main__":
    run(main)
