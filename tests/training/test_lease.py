"""One session at a time in a run folder of an object store."""

import json
import subprocess
import sys
import threading
import time

import pytest

from kaiyuan_jax import storage
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.training import lease

SOON = dict(heartbeat=0.1, patience=3.0)


@pytest.fixture
def folder(s3, request):
    return storage.path(f"{s3}/lease/{request.node.name}")


def of_elsewhere(beats: int) -> str:
    return json.dumps({"host": "other", "machine": "other", "process": 1, "began": "1", "beats": beats})


def test_sessions_follow_one_another_with_larger_numbers(folder):
    for number in (1, 2, 3):
        with lease.held(folder, **SOON):
            assert lease.numbers(folder) == [number]
    assert lease.numbers(folder) == [3]


def test_while_one_session_runs_another_is_refused(folder):
    with lease.held(folder, **SOON):
        time.sleep(0.3)
        with pytest.raises(ConfigError, match="another process is training in this folder"), lease.held(folder, **SOON):
            pass
    with lease.held(folder, **SOON):
        pass


def test_a_session_of_another_machine_counts_as_long_as_it_puts_its_lease_anew(folder):
    ended, path = threading.Event(), folder / lease.FOLDER / "7"
    storage.replace(path, of_elsewhere(0))

    def beat():
        beats = 0
        while not ended.wait(0.1):
            storage.replace(path, of_elsewhere(beats := beats + 1))

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(ConfigError, match="another process"), lease.held(folder, **SOON):
        pass
    ended.set()
    thread.join()
    begin = time.monotonic()
    with lease.held(folder, **SOON):
        assert lease.numbers(folder) == [8]
    assert time.monotonic() - begin >= SOON["patience"]


def test_a_process_of_this_machine_that_was_killed_is_not_waited_for(folder):
    code = f"import os, kaiyuan_jax.storage as s, kaiyuan_jax.training.lease as l; l.held(s.path({str(folder)!r})).__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert lease.numbers(folder) == [1]
    begin = time.monotonic()
    with lease.held(folder, heartbeat=0.1, patience=60.0):
        assert time.monotonic() - begin < 20
        assert lease.numbers(folder) == [2]


def test_of_many_that_come_at_once_one_gets_the_run(folder):
    together, outcomes, done = threading.Barrier(6), [], threading.Event()

    def come():
        together.wait()
        try:
            with lease.held(folder, **SOON):
                outcomes.append("held")
                done.wait(20)
        except ConfigError:
            outcomes.append("refused")

    threads = [threading.Thread(target=come) for _ in range(6)]
    for thread in threads:
        thread.start()
    while len(outcomes) < 6:
        time.sleep(0.05)
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held"] + ["refused"] * 5


def test_a_session_whose_run_another_took_ends_and_writes_no_more(folder):
    code = (
        f"import time, kaiyuan_jax.storage as s, kaiyuan_jax.training.lease as l; f = s.path({str(folder)!r})\n"
        "with l.held(f, heartbeat=0.1):\n    print('held', flush=True)\n    time.sleep(60)\n    s.replace(f / 'late', 'x')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    assert storage.create(folder / lease.FOLDER / "2", of_elsewhere(0))
    _, error = process.communicate(timeout=30)
    assert process.returncode == lease.LOST
    assert "another session has taken this run" in error and len(error.splitlines()) == 1
    assert lease.numbers(folder) == [1, 2] and not (folder / "late").exists()
