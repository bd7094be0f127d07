"""On a CPU, take the memory of a step's temporaries in huge pages.

XLA allocates the temporaries of a program in one piece whenever it runs, and frees it behind. glibc maps a piece of more than 32 MiB afresh
each time, and the kernel zeroes it page by page as it is touched: for a model of 1.3M parameters and 2,048 tokens 201 MiB or 51,600 page
faults a step, a quarter of its CPU time (docs/results/cpu_step.md). PyTorch, whose tensors are smaller pieces, does not pay for this.
glibc can ask for pages of 2 MiB where the kernel leaves them to programs; it reads the setting when a process begins.
"""

import importlib.metadata
import importlib.util
import os
import sys

SETTING = "glibc.malloc.hugetlb=1"


def begin_again_with_huge_pages() -> None:
    """Starts this program again, in this process, with huge pages; returns where it has them, and where JAX will not compute on the CPU.

    Call before anything else is done. A GLIBC_TUNABLES that the user has set is left as it is.
    """
    if not sys.platform.startswith("linux") or "GLIBC_TUNABLES" in os.environ or not _only_cpu():
        return
    os.execve(sys.executable, sys.orig_argv, os.environ | {"GLIBC_TUNABLES": SETTING})


def _only_cpu() -> bool:
    """Whether JAX is told to use the CPU, or has no plugin for anything else; found without importing it."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not importlib.util.find_spec("jax_plugins") and not importlib.util.find_spec("libtpu")
