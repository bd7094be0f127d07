"""A launch script, whole and with its flags, in this process: milliseconds where a process of its own costs seconds.

What needs a process (an exit code as a shell sees it, signals, memory, a start on one device) is tested in one.
"""

import contextlib
import io
import os
import pathlib
import runpy
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(tool: str, *flags, folder=ROOT) -> tuple[int, str, str]:
    """(exit code, output, errors) of launch/TOOL.py with these flags, in that folder."""
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = start(patch, tool, [str(flag) for flag in flags], folder)
    return code, out.getvalue(), error.getvalue()


def start(patch: pytest.MonkeyPatch, tool: str, flags: list[str], folder) -> int:
    """The exit code of launch/TOOL.py, whole, in this process and in that folder."""
    from absl import app
    from absl import flags as absl_flags

    app.define_help_flags()  # those of absl stay, the script's are taken out again
    patch.chdir(folder)
    script = str(ROOT / "launch" / f"{tool}.py")
    patch.setattr(sys, "argv", [script, *flags])
    patch.setattr(sys, "excepthook", sys.excepthook)  # put back afterwards
    patch.setattr(os, "_exit", _leave)
    patch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")  # so that train.py does not begin again in this process
    sys.modules.pop("config_config", None)  # ml_collections loads a config file on top of the last one, whose get_config would stay
    there, known, environment = set(absl_flags.FLAGS), absl_flags.FLAGS, dict(os.environ)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as leaving:
        code = leaving.code
        return 0 if code is None else code if isinstance(code, int) else 1
    finally:
        os.environ.clear()
        os.environ.update(environment)  # as it was for the next
        for name in set(known) - there:  # what other packages define when they are imported stays
            if known.find_module_defining_flag(name) == script or name.split(".")[0] == "config":
                delattr(known, name)
    return 0


def _leave(code: int):
    raise SystemExit(code)
