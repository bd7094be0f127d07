"""What happens to checkpoints afterwards: damage, full disks, and what is kept."""

import contextlib
import ctypes
import errno
import os
import pathlib
import random
import resource
import shutil

import jax.numpy as jnp
import pytest

from kaiyuan_jax import config, storage
from kaiyuan_jax.training import checkpoint, state
from kaiyuan_jax.training.checkpoints import Checkpoints, SaveError
from kaiyuan_jax.training.saved import COMPLETE, steps
from tests.training.saved_states import DAMAGES, abstract_of, same, some_state

SETTINGS = config.Checkpoint(every=10, keep=3)


def save_all(folder, steps, **fields):
    checkpoints = Checkpoints(folder, config.Checkpoint(**{"every": 10, "keep": 3} | fields))
    for step in steps:
        checkpoints.save(step, some_state(step), {"step": step, "seconds": step / 3})
    checkpoints.wait()
    return checkpoints


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints 10 and 20, to copy."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    save_all(folder, (10, 20)).close()
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_file_is_damaged_the_state_is_exact_or_that_of_the_checkpoint_before(two, tmp_path, damage, capsys):
    seeds = [int(seed) for seed in os.environ.get("DAMAGE_SEEDS", "0").split(",")]
    outcomes = []
    for file in sorted(path.relative_to(two) for path in (two / "20").rglob("*") if path.is_file()):
        for seed in seeds:
            folder = tmp_path / f"{len(outcomes)}"
            shutil.copytree(two, folder)
            DAMAGES[damage](folder / file, random.Random(f"{file.name}{seed}"))
            checkpoints = Checkpoints(folder, SETTINGS)
            restored, progress = checkpoints.newest(abstract_of(some_state(20)))
            checkpoints.close()
            step = progress["step"]
            assert same(restored, some_state(step)), file
            assert progress == {"step": step, "seconds": step / 3}
            said = capsys.readouterr().err
            if step == 10 and file.name != COMPLETE:
                assert f"{folder}/20" in said and "moved to 20.damaged" in said, file
                assert (folder / "20.damaged" / "damaged.txt").read_text() in said.replace("; moved to", "\n; moved to")
            outcomes.append((step, file))
            shutil.rmtree(folder)
    assert {step for step, _ in outcomes} == {10, 20}, "every file mattered, or none did: the cases are not what they should be"


def test_a_flip_in_any_byte_of_progress_shows(two, tmp_path):
    file = shutil.copytree(two, tmp_path / "c") / "20" / "progress" / "metadata"
    good = file.read_bytes()
    for place in range(0, len(good), 7):
        content = bytearray(good)
        content[place] ^= 1 << place % 8
        file.write_bytes(content)
        with contextlib.suppress(checkpoint.DamagedError):
            assert checkpoint.facts(tmp_path / "c" / "20") == checkpoint.facts(two / "20")


def test_damaged_weights_are_refused_by_those_who_read_them_alone(two, tmp_path):
    folder = shutil.copytree(two / "20", tmp_path / "20")
    for file in (folder / "parameters" / "ocdbt.process_0" / "d").iterdir():
        file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(checkpoint.DamagedError, match="20: parameters .*(cannot be read|is not what was saved)"):
        checkpoint.load_parameters(folder, abstract_of(some_state(20).params))
    with pytest.raises(checkpoint.DamagedError, match="20: parameters .*(cannot be read|is not what was saved)"):
        paths, read = checkpoint.leaf_reader(folder)
        for path in paths:
            read(path)


def test_what_cannot_be_read_for_want_of_open_files_is_no_damage(two, tmp_path):
    folder, (soft, hard) = shutil.copytree(two / "20", tmp_path / "20"), resource.getrlimit(resource.RLIMIT_NOFILE)
    checkpoint.facts(folder)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(checkpoint.UnreadableError, match="20: progress cannot be read .* now, although it may be good"):
            checkpoint.facts(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(), TimeoutError(), MemoryError(), OSError(errno.ESTALE, "x"), type("ReadTimeoutError", (Exception,), {})()],
)
def test_what_may_be_over_soon(error):
    assert storage.may_pass(error)
    assert not storage.may_pass(OSError(errno.EIO, "x")) and not storage.may_pass(FileNotFoundError())


def test_without_a_good_checkpoint_there_is_none(two, tmp_path, capsys):
    folder = shutil.copytree(two, tmp_path / "c")
    for step in (10, 20):
        (folder / str(step) / "progress" / "metadata").write_text("{}}")
    assert Checkpoints(folder, SETTINGS).newest(abstract_of(some_state(20))) is None
    assert "20: progress cannot be read" in (said := capsys.readouterr().err) and "10: progress cannot be read" in said
    assert sorted(os.listdir(folder)) == ["10.damaged", "20.damaged"]


def test_a_checkpoint_of_another_model_is_no_damage(two, tmp_path):
    folder = shutil.copytree(two, tmp_path / "c")
    with pytest.raises(checkpoint.CheckpointError, match=r"20: parameters layers/query is float32\[64, 32\], .* has float32\[9, 32\]"):
        Checkpoints(folder, SETTINGS).newest(abstract_of(some_state(20, rows=9)))
    assert steps(folder) == [10, 20]


def test_a_checkpoint_of_before_there_were_fingerprints_is_taken_as_it_is(two, tmp_path, capsys):
    folder = shutil.copytree(two, tmp_path / "c")
    (folder / "20" / "progress" / "metadata").write_text('{"step": 20}')
    restored, progress = Checkpoints(folder, SETTINGS).newest(abstract_of(some_state(20)))
    assert progress == {"step": 20} and same(restored, some_state(20))
    assert "without fingerprints and cannot be verified" in capsys.readouterr().err


def test_an_average_may_begin_or_end_between_two_sessions(tmp_path):
    folder, plain = tmp_path / "c", some_state(10)
    averaged = state.TrainState(**{**vars(plain), "average": {"gain": jnp.ones((3,))}})
    checkpoints = Checkpoints(folder, SETTINGS)
    checkpoints.save(10, plain, {})
    assert checkpoints.wait() is None
    assert same(checkpoints.newest(abstract_of(averaged))[0], plain)
    checkpoints.save(20, averaged, {})
    checkpoints.wait()
    assert same(checkpoints.newest(abstract_of(plain))[0], plain) and same(checkpoints.newest(abstract_of(averaged))[0], averaged)


@pytest.mark.parametrize("saved, fields, kept", [
    ((10, 20, 30, 40, 50), {}, [30, 40, 50]),
    ((10, 20, 30, 40, 50), {"keep_steps": (20,)}, [20, 30, 40, 50]),
    ((10, 20, 30), {"keep": 1}, [20, 30]),  # the newest has not been read back yet
    ((10, 20, 30, 37, 40, 45), {}, [20, 30, 40, 45]),  # what a SIGTERM saved between pushes none out that averaging reads
    ((10, 20, 30, 37, 40, 45, 50), {}, [30, 40, 45, 50]),
])  # fmt: skip
def test_what_is_kept(tmp_path, saved, fields, kept):
    assert save_all(tmp_path / "c", saved, **fields).steps() == kept


def test_a_damaged_one_goes_when_none_of_before_it_is_left(tmp_path):
    checkpoints = save_all(tmp_path / "c", (10, 20), keep=2)
    os.remove(checkpoints.folder / "20" / "rest" / "manifest.ocdbt")
    assert checkpoints.newest(abstract_of(some_state(10)))[1]["step"] == 10
    for step, there in ((20, ["10", "20", "20.damaged"]), (30, ["20", "20.damaged", "30"]), (40, ["30", "40"])):
        checkpoints.save(step, some_state(step), {"step": step})
        checkpoints.wait()
        assert sorted(os.listdir(checkpoints.folder)) == there


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB, for root; skips otherwise."""
    mounted, libc = tmp_path / "disk", ctypes.CDLL(None, use_errno=True)
    mounted.mkdir()
    if libc.mount(b"tmpfs", str(mounted).encode(), b"tmpfs", 0, b"size=2m"):
        pytest.skip("a small file system can be mounted by root alone")
    yield mounted
    libc.umount2(str(mounted).encode(), 2)


def fill(disk: pathlib.Path, left: int = 0) -> pathlib.Path:
    file = disk / "filler"
    with open(file, "wb") as out:
        out.write(bytes(shutil.disk_usage(disk).free - left))
    return file


@pytest.mark.parametrize("left", [0, 60_000])  # nothing can be begun; it ends in the middle
def test_on_a_full_disk_the_older_stay_nothing_is_left_over_and_the_next_save_waits_for_room(small_disk, left, capsys):
    checkpoints = save_all(small_disk / "c", (10,), keep=1)
    filler, big = fill(small_disk, left), some_state(20, rows=160)
    begin = os.listdir(checkpoints.folder)
    checkpoints.patience = 1.5
    with pytest.raises(SaveError, match="0: could not be written for 1.5 s .*(free|No space)"):
        checkpoints.save(20, big, {"step": 20})
        checkpoints.save(30, big, {"step": 30})
    assert os.listdir(checkpoints.folder) == begin == ["10"]
    filler.unlink()
    checkpoints.save(30, some_state(30), {"step": 30})
    checkpoints.wait()
    assert checkpoints.steps() == [10, 30] and same(checkpoints.newest(abstract_of(some_state(30)))[0], some_state(30))
    said = capsys.readouterr().err
    assert "20: could not be written" in said and "training waits" in said
