"""Flags shared by the launch scripts: `--config=configs/x.py` with dotted overrides, checked before anything runs.

A config file defines `get_config()` or `get_config(variant: str)` (`--config=configs/quickstart.py:ascending`) and returns an
`Experiment`. Mistakes end as one line per problem and exit code 2, without a traceback.
"""

import dataclasses
import os
import re
import sys
import traceback
import typing

from absl import app, flags, logging

from kaiyuan_jax import secrets
from kaiyuan_jax.config import ConfigError, Experiment, UserError, unknown_field
from kaiyuan_jax.config_check import check


def define_config(values: flags.FlagValues = flags.FLAGS, argv: list[str] | None = None) -> flags.FlagHolder[Experiment]:
    """Declares `--config`; `checked` gives its value with the overrides applied. Those of another command: give its `argv` and `values`."""
    from ml_collections import config_flags  # tools that take no experiment run without it

    described = "Experiment file, such as configs/quickstart.py[:variant]."
    return config_flags.DEFINE_config_file("config", help_string=described, flag_values=values, sys_argv=argv)


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
                raise ConfigError(f"--config: {str(error.__cause__).strip().splitlines()[-1].strip()}") from None
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

    sys.excepthook = _without_secrets
    try:
        app.run(guarded, flags_parser=parse)
    except UserError as error:
        _fail(str(error))


def _without_secrets(kind, error, trace) -> None:
    """A fault of ours keeps its traceback, whose messages may quote an address that holds a password."""
    print(secrets.redact("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def one_thread() -> None:
    """Linear algebra on one thread unless the environment says otherwise; call before numpy is imported.

    For scripts whose matrices are small: there threads mostly wait for one another (5 times slower on a busy machine of two cores).
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def parse(argv: list[str], values: flags.FlagValues = flags.FLAGS, known_only: bool = False) -> list[str]:
    """Parses flags; what is wrong with an override of the config is said before ml_collections sees it."""
    for argument in argv[1:]:
        match = re.match(r"--(?:no)?(config\.[^=]+)", argument)
        if match and (problem := _override_problem(match.group(1))):
            _fail(f"--{match.group(1)}: {problem}")
    try:
        return values(argv, known_only)
    except flags.Error as error:
        lines = str(error).strip().splitlines()  # ml_collections puts a whole traceback of the config file into the message
        _fail(f"--config: {lines[-1].strip()}" if "Traceback" in str(error) else lines[0])
    except IndexError:
        given = ", ".join(argument.partition("=")[0] for argument in argv if "[" in argument)
        _fail(f"{given}: an index beyond the end of its list; count from 0, and see --dry_run for what the lists hold")
    except (FileNotFoundError, ModuleNotFoundError, KeyError, TypeError, ValueError) as error:
        _fail(f"--config: {error}")
    except Exception as error:  # whatever a user's file may do
        said = " ".join(f"{type(error).__name__}: {error}".split())
        _fail(f"--config: the file cannot be loaded ({said}); mend it, or see configs/quickstart.py for one that can")


def _override_problem(path: str) -> str:
    """What is wrong with a dotted path into an `Experiment`, or nothing."""
    kind = Experiment
    for name, index in re.findall(r"\.(\w+)((?:\[\d+\])*)", path):
        if not dataclasses.is_dataclass(kind):
            return f"{name!r} does not exist, what stands before it has no fields"
        hints = typing.get_type_hints(kind)
        if name not in hints:
            return unknown_field(name, kind)
        kind = hints[name]
        if typing.get_origin(kind) is list and index:
            kind = typing.get_args(kind)[0]
    if dataclasses.is_dataclass(kind) or typing.get_origin(kind) is list:
        return "a whole table cannot be given on the command line; set its fields one by one, or edit the config file"
    return ""


def complain(message: str) -> None:
    """Prints an error in plain lines."""
    for line in secrets.redact(message).splitlines():
        print(f"error: {line}", file=sys.stderr)


def _fail(message: str) -> None:
    complain(message)
    sys.exit(2)
