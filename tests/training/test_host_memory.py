import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from kaiyuan_jax.training import host_memory

host_memory.begin_again_with_huge_pages()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), *sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({"JAX_PLATFORMS": "cpu"}, "glibc.malloc.hugetlb=1"),
        ({"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.check=0"}, "glibc.malloc.check=0"),
        ({"JAX_PLATFORMS": "cuda,cpu"}, "None"),
    ],
)
def test_the_process_begins_again_once_with_its_number_and_arguments(given, want):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | given
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, "a b"], env=environment, stdout=subprocess.PIPE, text=True)
    out, _ = process.communicate(timeout=60)
    assert out == f"{process.pid} {want} a b\n"
