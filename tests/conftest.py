"""Eight virtual CPU devices for every test, and programs compiled in a hurry: both must be set before jax is imported.

Most of a test's time would go into optimising programs that run for a millisecond, so optimisation is off and what was compiled once is
kept for the session, for the processes that tests start too. Linear algebra keeps to one thread: the tests' processes share the cores.
"""

import os
import tempfile

FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    "--xla_backend_optimization_level": "0",
    "--xla_llvm_disable_expensive_passes": "true",
}

os.environ.setdefault("JAX_PLATFORMS", "cpu")
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # before numpy is imported
given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join([given, *(f"{name}={value}" for name, value in FLAGS.items() if name not in given)]).strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="kaiyuan_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
