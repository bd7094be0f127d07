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


def define_config() -> flags.FlagHolder[Experiment]:
    """Declares `--config`; `checked` gives its value with the overrides applied."""
    return config_flags.DEFINE_config_file("config", help_string="Experiment file, such as configs/quickstart.py[:variant].")


def checked(holder: flags.FlagHolder[Experiment]) -> Experiment:
    """The experiment that the flags describe, after `config_check.check`."""
    experiment = holder.value
    if experiment is None:
        raise ConfigError("--config: missing; name an experiment file, such as --config=configs/quickstart.py:ascending_moderate")
    if not isinstance(experiment, Experiment):
        reason = getattr(type(experiment), "_ReportError", None)  # ml_collections hands out a stand-in when a file does not load
        if reason is not None:
            try:
                reason(experiment)
            except OSError as error:
                raise ConfigError(f"--config: {error.__cause__}") from None
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
        return flags.FLAGS(argv)
    except flags.Error as error:
        lines = str(error).strip().splitlines()  # ml_collections puts a whole traceback of the config file into the message
        _fail(f"--config: {lines[-1].strip()}" if "Traceback" in str(error) else lines[0])
    except KeyError as error:
        # ml_collections says: Field <name> not found on dataclass <class '...Owner'>
        found = re.search(r"Field (\w+) not found on dataclass <class '.*?(\w+)'>", str(error))
        owner = getattr(config_tree, found.group(2), None) if found else None
        if owner is None:
            _fail(f"--config: {error}")
        flag = next((item.partition("=")[0] for item in argv if re.search(rf"\.{found.group(1)}\b", item)), "--config")
        _fail(f"{flag}: {config_tree.unknown_field(found.group(1), owner)}")
    except (FileNotFoundError, ModuleNotFoundError, IndexError, TypeError, ValueError) as error:
        _fail(f"--config: {error}")


def _fail(message: str) -> None:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
