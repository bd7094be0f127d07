"""How processes complete a checkpoint together, and how one whose part failed tells the others.

Orbax's background threads meet twice, when every process has written its part and when process 0 has renamed the folder. A process whose
disk is full never comes, and the others would wait for twenty minutes. Here it raises a word in the coordination service and comes to
the meeting in the thread's stead; who meets there reads the word, and all have failed.
"""

from jax._src import distributed  # the coordination service has no public name

from kaiyuan_jax.sharding import processes

_WAIT = 1200  # seconds until the others have written theirs
_MEETINGS = 2  # of one write


class Commit:
    """The barrier that Orbax is given (`AsyncOptions.barrier_sync_fn`); `begin` before every write, in the same order everywhere."""

    def __init__(self, name: str):
        self._name, self._attempt, self._passed, self._over = name, 0, 0, False

    def begin(self) -> None:
        self._attempt, self._passed, self._over = self._attempt + 1, 0, False

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Meets the others; raises OSError when one of them has failed."""
        client = distributed.global_state.client
        try:
            client.wait_at_barrier(f"{self._name}/{self._attempt}/{self._passed}", timeout_ms)
            self._passed += 1
            self._over = self._passed == _MEETINGS
            if client.key_value_dir_get(f"{self._name}/{self._attempt}/failed"):
                raise OSError("another process could not write its part")
        except Exception:
            self._over = True  # nobody waits for this process
            raise

    def fail(self) -> None:
        """Says that the write failed here, and lets go the others who wait; for the process where it failed."""
        if processes.count() == 1 or self._over:
            return
        client = distributed.global_state.client
        self._over = True
        client.key_value_set(f"{self._name}/{self._attempt}/failed/{processes.index()}", "1")
        client.wait_at_barrier(f"{self._name}/{self._attempt}/{self._passed}", _WAIT * 1000)
