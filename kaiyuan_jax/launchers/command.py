"""The command that a launcher starts, and what it must know of the run: which experiment, how far it is, whether it is done.

A launcher's own flags stand before `--`, those of launch/train.py after it and go through as they are:

    python launch/local.py --processes=2 -- --config=configs/x.py --config.schedule.peak=3e-3
"""

import dataclasses
import re
import sys
from pathlib import Path

from absl import flags

from kaiyuan_jax.config import Experiment, UserError
from kaiyuan_jax.data import recipe
from kaiyuan_jax.flags import checked, complain, define_config, parse
from kaiyuan_jax.training import saved

ROOT = Path(__file__).parents[2]
TRAIN = "launch/train.py"


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """(the launcher's own arguments with the program's name, those after the first `--`).

    Ends the process with code 2 where the experiment stands before it.
    """
    own, passed = (argv[: (at := argv.index("--"))], argv[at + 1 :]) if "--" in argv else (argv, [])
    if astray := next((argument.partition("=")[0] for argument in own if re.match(r"--?(no)?config\b", argument)), ""):
        complain(f"{astray}: stands before `--`, where a launcher's own flags are; put ` -- ` before all that launch/train.py shall get")
        sys.exit(2)
    return own, passed


def experiment(arguments: list[str]) -> Experiment:
    """The checked experiment that arguments of launch/train.py describe. Raises UserError where there is none after `--`."""
    if not any(argument.startswith(("--config", "-config")) for argument in arguments):
        raise UserError(
            "no --config after `--`; end the command with what launch/train.py shall get, such as -- --config=configs/quickstart.py"
        )
    values, argv = flags.FlagValues(), [TRAIN, *arguments]
    holder = define_config(values, argv)
    parse(argv, values, known_only=True)
    return checked(holder)


def others(arguments: list[str]) -> list[str]:
    """The arguments that do not describe the experiment."""
    kept, skip = [], False
    for i, argument in enumerate(arguments):
        if skip:
            skip = False
        elif re.match(r"--?(no)?config\b", argument):
            skip = "=" not in argument and i + 1 < len(arguments) and not arguments[i + 1].startswith("-")
        else:
            kept.append(argument)
    return kept


def newest(folder: str) -> int:
    """Step of the newest complete checkpoint of the run in a folder, 0 where there is none."""
    return (saved.steps(f"{folder}/checkpoints") or [0])[-1]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far the run of an experiment is, from its checkpoints."""

    folder: str  # of the run
    steps: int  # of the whole run

    def newest(self) -> int:
        return newest(self.folder)

    def finished(self) -> bool:
        return self.newest() >= self.steps


def progress(of: Experiment) -> Progress:
    """Resolves the data plan, which needs the stores or their planned sizes; see `recipe.facts_of` for the errors."""
    return Progress(of.folder, recipe.resolve(of.data, *recipe.facts_of(of.data)).steps)
