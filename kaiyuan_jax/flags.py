"""Flags shared by the launch scripts: `--config=configs/x.py` with dotted overrides, checked before anything runs.

A config file defines `get_config()` or `get_config(variant: str)` (`--config=configs/quickstart.py:ascending`) and returns an
`Experiment`. Mistakes end as one line per problem and exit code 2, without a traceback.
"""

import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from kaiyuan_jax import config as config_tree
from kaiyuan_jax.config import ConfigError, Experiment, UserError
from kaiyuan_jax.config_check import check


def define_config(required: bool = True) -> flags.FlagHolder[Experiment]:
    """Declares `--config`; the value is an `Experiment` with the overrides applied."""
    holder = config_flags.DEFINE_config_file("config", help_string="Experiment file, such as configs/quickstart.py[:variant].")
    if required:
        flags.mark_flag_as_required("config")
    return holder


def checked(holder: flags.FlagHolder[Experiment]) -> Experiment:
    """The experiment that the flags describe, after `config_check.check`."""
    experiment = holder.value
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"--config: its get_config() returned {type(experiment).__name__}, must return kaiyuan_jax.config.Experiment")
    check(experiment)
    return experiment


def run(main) -> None:
    """`absl.app.run(main)` for a command-line tool: what the user can mend is printed in plain lines, exit code 2."""

    def guarded(argv):
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; every option is a flag, such as --config=configs/quickstart.py")
        logging.set_verbosity(logging.WARNING)
        return main(argv)

    try:
        app.run(guarded, flags_parser=_parse)
    except UserError as error:
        _fail(str(error))


def _parse(argv):
    """Parses flags; an unknown field of the config becomes one line with the nearest names."""
    try:
        return app.parse_flags_with_usage(argv)
    except KeyError as error:
        # ml_collections says: Field <name> not found on dataclass <class '...Owner'>
        found = re.search(r"Field (\w+) not found on dataclass <class '.*?(\w+)'>", str(error))
        owner = getattr(config_tree, found.group(2), None) if found else None
        _fail(f"--config.…{found.group(1)}: {config_tree.unknown_field(found.group(1), owner)}" if owner else f"--config: {error}")
    except (FileNotFoundError, ModuleNotFoundError, IndexError, TypeError, ValueError) as error:
        _fail(f"--config: {error}")


def _fail(message: str) -> None:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
