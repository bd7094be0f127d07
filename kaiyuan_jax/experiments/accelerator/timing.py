"""Seconds of one call on a device, with dispatch hidden behind the calls before it.

Calls are sent one after the other and only the last is waited for; a device runs them in that order, so the wait covers all. A round holds
enough calls to last `ROUND` seconds; the median over rounds is reported.
"""

import statistics
import time
from collections.abc import Callable

import jax

ROUND = 0.05  # seconds
ROUNDS = 7


def seconds(call: Callable, *arguments, rounds: int = ROUNDS, longest: float = 3.0) -> float:
    """Median seconds of `call(*arguments)`, after two calls that are not counted. Takes about `longest` seconds at most."""
    for _ in range(2):
        jax.block_until_ready(call(*arguments))
    begin = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    once = max(time.perf_counter() - begin, 1e-7)
    count = max(1, min(200, round(ROUND / once)))
    found = []
    for _ in range(max(1, min(rounds, int(longest / (count * once))))):
        begin = time.perf_counter()
        for _ in range(count):
            result = call(*arguments)
        jax.block_until_ready(result)
        found.append((time.perf_counter() - begin) / count)
    return statistics.median(found)


def compiled_bytes(compiled) -> dict:
    """Bytes of a compiled program, GiB: arguments, temporaries, and all that it holds at once."""
    memory = compiled.memory_analysis()
    if memory is None:
        return {"arguments_gib": None, "temporaries_gib": None, "total_gib": None}
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    return {
        "arguments_gib": memory.argument_size_in_bytes / 2**30,
        "temporaries_gib": memory.temp_size_in_bytes / 2**30,
        "total_gib": held / 2**30,
    }
