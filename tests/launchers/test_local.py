"""Processes of one run on this machine: real ones, which fail, stop, hang and are killed. What they run is a few lines of Python here; with
launch/train.py in tests/launchers/test_local_train.py."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from kaiyuan_jax.launchers import local

ROOT = pathlib.Path(__file__).parents[2]
QUICK = local.Policy(restarts=3, backoff=0.01, grace=5.0, lag=0.3, stopped=0.5)
# What every program below begins with: its number, and a file in which it says that it lives.
HEAD = """
import os, signal, sys, time
index = int(sys.argv[-1].partition("=")[2]) if sys.argv[-1].startswith("--process=") else 0
open(f"{index}.{os.getpid()}.pid", "w").close()
def starts(): return len([name for name in os.listdir() if name.startswith(f"{index}.") and name.endswith(".pid")])
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """program(text) -> a command that runs these lines in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def make(text):
        return [sys.executable, "-S", "-E", "-u", "-c", HEAD + textwrap.dedent(text)]

    return make


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path):
    yield
    left = [pid for pid in pids(tmp_path) if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def pids(folder, index="*") -> list[int]:
    return [int(path.name.split(".")[1]) for path in folder.glob(f"{index}.*.pid")]


def alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def test_every_process_gets_its_place_and_its_devices_and_the_lines_of_the_others_are_numbered(program, capfd, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_some=1 --xla_force_host_platform_device_count=8")
    command = program("print(sys.argv[1:], os.environ['XLA_FLAGS'])\nprint('no end of line', file=sys.stderr, end='')")
    assert local.run([*command, "--a=b"], processes=2, devices=3) == 0
    out, error = capfd.readouterr()
    plain, numbered = sorted(out.splitlines(), key=lambda line: line.startswith("[1] "))
    port = plain.split("127.0.0.1:")[1].split("'")[0]
    for number, line in (0, plain), (1, numbered.removeprefix("[1] ")):
        place = f"['--a=b', '--coordinator=127.0.0.1:{port}', '--processes=2', '--process={number}']"
        assert line == f"{place} --xla_some=1 --xla_force_host_platform_device_count=3"
    assert "[1] no end of line\n" in error


def test_one_process_alone_is_the_plain_command(program, capfd):
    assert local.run([*program("print(sys.argv[1:])"), "--a=b"]) == 0
    assert capfd.readouterr().out == "['--a=b']\n"


@pytest.mark.parametrize("code", [1, 2])
def test_divergence_and_mistakes_are_final(program, tmp_path, code):
    assert local.run(program(f"sys.exit({code})"), policy=QUICK) == code
    assert len(pids(tmp_path)) == 1


def test_what_fails_begins_again_until_it_succeeds(program, tmp_path, capfd):
    assert local.run(program("sys.exit(75 if starts() < 3 else 0)"), policy=QUICK) == 0
    assert len(pids(tmp_path)) == 3
    assert "ended with code 75; starting again in 0.02 s (2 of 3 without a newer checkpoint)" in capfd.readouterr().err


def test_it_gives_up_after_so_many_starts_without_a_newer_checkpoint(program, tmp_path, capfd):
    assert local.run(program("os.kill(os.getpid(), 9)"), policy=QUICK) == 128 + 9
    assert len(pids(tmp_path)) == 1 + QUICK.restarts
    assert "ended by SIGKILL; 3 starts in a row brought no newer checkpoint: given up" in capfd.readouterr().err


def test_a_newer_checkpoint_begins_the_count_anew(program, tmp_path):
    progress = lambda: min(len(pids(tmp_path)), 5)  # noqa: E731
    assert local.run(program("sys.exit(75)"), policy=QUICK, progress=progress) == 75
    assert len(pids(tmp_path)) == 5 + QUICK.restarts  # the fifth failure is the first of the last row


def test_code_zero_without_the_last_checkpoint_begins_again(program, tmp_path):
    assert local.run(program(""), policy=QUICK, finished=lambda: len(pids(tmp_path)) == 2) == 0
    assert len(pids(tmp_path)) == 2


def test_a_run_folder_that_does_not_answer_ends_nothing(program, tmp_path, capfd):
    def progress():
        raise OSError("https://user:word@host: timed out")

    def finished():
        if len(pids(tmp_path)) == 1:
            raise OSError("timed out")
        return True

    assert local.run(program(""), policy=QUICK, progress=progress, finished=finished) == 0
    assert len(pids(tmp_path)) == 2
    error = capfd.readouterr().err
    assert "the run folder does not answer: " in error and "word" not in error


def test_pauses_double_up_to_five_minutes():
    assert [local.Policy(backoff=10).pause(n) for n in (1, 2, 3, 40)] == [10, 20, 40, 300]


def test_one_that_dies_takes_the_others_along_after_their_last_words(program, tmp_path, capfd):
    """One that lives on, and one that is stopped, which cannot even be asked."""
    command = program("""
        if starts() == 2: sys.exit(0)
        if index == 0:
            while len(os.listdir()) < 3: time.sleep(0.01)
            time.sleep(0.1)
            os.kill(os.getpid(), 9)
        if index == 1: os.kill(os.getpid(), signal.SIGSTOP)
        print("a last word")
        time.sleep(100)
    """)
    assert local.run(command, processes=3, policy=QUICK) == 0
    out, error = capfd.readouterr()
    assert "[2] a last word\n" in out
    assert "ended by force: process 1, 2" in error and "ended by SIGKILL; starting again" in error


def test_a_process_that_stays_stopped_counts_as_lost(program, tmp_path, capfd):
    command = program("if starts() == 1: os.kill(os.getpid(), signal.SIGSTOP)")
    begin = time.monotonic()
    assert local.run(command, policy=QUICK) == 0
    assert time.monotonic() - begin < 10
    assert "process 0 has been stopped for 0.5 s" in capfd.readouterr().err


def test_what_a_process_started_ends_with_it(program, tmp_path):
    command = program("""
        child = os.fork()
        if child == 0:
            open(f"{index}.{os.getpid()}.pid", "w").close()
            time.sleep(100)
        while starts() < 2: time.sleep(0.01)
    """)
    assert local.run(command, policy=QUICK) == 0
    assert len(pids(tmp_path)) == 2
    until(lambda: not any(alive(pid) for pid in pids(tmp_path)))  # a signal is on its way


def launcher(command, policy, finished=True, **options) -> subprocess.Popen:
    """A launcher in a process of its own, to be killed."""
    start = f"local.run({command!r}, 2, policy=local.{policy!r}, finished=lambda: {finished})"
    code = f"import sys\nfrom kaiyuan_jax.launchers import local\n\nsys.exit({start})"
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, **options)


@pytest.mark.parametrize(("finished", "code"), [(False, 75), (True, 0)])
def test_a_signal_is_passed_on_and_waited_for_and_nothing_begins_again(program, tmp_path, finished, code):
    command = program("""
        def save(*_):
            time.sleep(0.3)
            open(f"saved{index}", "w").close()
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        open(f"ready{index}", "w").close()
        time.sleep(100)
    """)
    process = launcher(command, QUICK, finished=finished)
    until(lambda: (tmp_path / "ready0").exists() and (tmp_path / "ready1").exists())
    os.kill(pids(tmp_path, 1)[0], signal.SIGSTOP)  # even one that is stopped gets to save
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == code
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists() and len(pids(tmp_path)) == 2


@pytest.mark.parametrize("times", [1, 2])
def test_who_does_not_heed_the_signal_is_killed_after_the_grace_or_at_the_second_signal(program, tmp_path, times):
    command = program("""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(f"ready{index}", "w").close()
        while True: time.sleep(100)
    """)
    grace = 0.5 if times == 1 else 100.0
    process = launcher(command, local.Policy(grace=grace))
    until(lambda: (tmp_path / "ready0").exists() and (tmp_path / "ready1").exists())
    for _ in range(times):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    assert process.wait(20) == local.AGAIN


def test_a_signal_ends_the_pause_before_the_next_start(program, tmp_path):
    process = launcher(program("sys.exit(75)"), local.Policy(backoff=100.0), stderr=subprocess.PIPE, text=True)
    assert "starting again in 100 s" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == local.AGAIN and len(pids(tmp_path)) == 2
    process.stderr.close()


def test_the_processes_do_not_outlive_a_launcher_that_is_killed(program, tmp_path):
    process = launcher(program("time.sleep(100)"), QUICK)
    until(lambda: len(pids(tmp_path)) == 2)
    process.kill()
    process.wait()
    until(lambda: not any(alive(pid) for pid in pids(tmp_path)))


def test_the_commands_are_printed_and_nothing_is_written(launch, config_file, tmp_path):
    own = ["--print", "--processes=2", "--devices=3"]
    code, out, error = launch("local", *own, "--", f"--config={config_file(tmp_path / 'run')}", "--config.seed=3", XLA_FLAGS="")
    assert code == 0, error
    lines = [shlex.split(line) for line in out.splitlines()]
    for index, line in enumerate(lines):
        assert line[:3] == ["env", "XLA_FLAGS=--xla_force_host_platform_device_count=3", sys.executable]
        assert line[-4:] == ["--config.seed=3", "--coordinator=127.0.0.1:PORT", "--processes=2", f"--process={index}"]
    assert len(lines) == 2 and not (tmp_path / "run").exists()
