"""One page about several prepared sources: counts, quality histograms, what each rule removed, what could not be read.

    python launch/report_preparation.py --sources=stores/web,stores/code --output=stores/report.html
"""

from absl import flags

from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import run
from kaiyuan_jax.report import preparation

SOURCES = flags.DEFINE_list("sources", None, "Outputs of launch/prepare_data.py.")
OUTPUT = flags.DEFINE_string("output", None, "HTML file.")


def main(argv: list[str]) -> None:
    del argv
    for name, example in (("sources", "stores/web,stores/code"), ("output", "stores/report.html")):
        if not flags.FLAGS[name].value:
            raise UserError(f"--{name}: missing; give one, such as --{name}={example}")
    print(preparation.build(SOURCES.value, OUTPUT.value))


if __name__ == "__main__":
    run(main)
