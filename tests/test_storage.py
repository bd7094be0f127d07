"""One set of paths for a local disk, s3:// and gs://, the last two against servers on loopback."""

import os
import subprocess
import sys

import pytest

from kaiyuan_jax import storage

PLACES = ("local", "s3", "gs")


@pytest.fixture
def folder(request, tmp_path):
    """folder(place): an empty folder there, as a path."""
    name = "".join(c if c.isalnum() else "_" for c in request.node.name)
    return lambda place: tmp_path / "x" if place == "local" else storage.path(f"{request.getfixturevalue(place)}/{name}")


@pytest.fixture
def here(request, folder):
    return folder(request.param)


everywhere = pytest.mark.parametrize("here", PLACES, indirect=True)


def filled(place):
    """A folder with a marker and what belongs to it."""
    for name, text in (("marker", "m"), ("a", "one"), ("deep/b", "two")):
        storage.make_folder((place / name).parent)
        storage.replace(place / name, text)
    return place


@everywhere
def test_what_is_put_is_there_whole_and_listed(here):
    assert storage.names(here) == [] and storage.inside(here) == []
    filled(here)
    assert storage.names(here) == ["a", "deep", "marker"]
    assert storage.inside(here) == ["a", "deep/b", "marker"]
    assert storage.read(here / "deep" / "b") == b"two"
    before = storage.version(here / "a")
    storage.replace(here / "a", "öther".encode())
    assert (here / "a").read_text(encoding="utf-8") == "öther"
    assert storage.version(here / "a") != before
    with pytest.raises(FileNotFoundError):
        storage.version(here / "none")


@everywhere
def test_of_those_that_create_a_file_one_does(here):
    storage.make_folder(here)
    assert [storage.create(here / "lock", text) for text in "abc"] == [True, False, False]
    assert (here / "lock").read_text() == "a"


@pytest.mark.parametrize("target", PLACES)
@pytest.mark.parametrize("source", PLACES)
def test_a_folder_is_copied_between_any_two_places(folder, source, target):
    source, target = filled(folder(source) / "from"), folder(target) / "to"
    storage.copy(source, target, last="marker")
    assert {name: (target / name).read_text() for name in storage.inside(target)} == {"a": "one", "deep/b": "two", "marker": "m"}
    assert storage.inside(source) == storage.inside(target)


@everywhere
def test_deleting_takes_all_of_a_folder_and_nothing_beside_it(here):
    filled(here / "1")
    filled(here / "10")
    storage.delete(here / "1", first="marker")
    storage.delete(here / "1", first="marker")
    assert storage.names(here) == ["10"]
    storage.delete(here / "10" / "a")
    assert storage.inside(here / "10") == ["deep/b", "marker"]


@everywhere
def test_a_moved_folder_is_complete_under_one_name_at_most(here):
    filled(here / "1")
    storage.move(here / "1", here / "2", "marker")
    assert storage.names(here) == ["2"]
    assert {"a", "deep/b"} <= set(storage.inside(here / "2"))


@pytest.mark.parametrize("place", ("s3", "gs"))
def test_a_deletion_that_breaks_off_leaves_no_marker(folder, place, monkeypatch):
    here = filled(folder(place))
    system = storage._system(here)

    def broken(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(system, "rm", broken)
    with pytest.raises(KeyboardInterrupt):
        storage.delete(here, first="marker")
    assert storage.inside(here) == ["a", "deep/b"]


def test_what_another_process_puts_and_deletes_is_seen_at_once(s3, folder):
    import boto3

    here = filled(folder("s3"))
    assert storage.names(here) == ["a", "deep", "marker"]
    client, prefix = boto3.client("s3"), str(here).removeprefix(f"{s3}/")
    client.put_object(Bucket="run-folders", Key=f"{prefix}/c", Body=b"")
    client.delete_object(Bucket="run-folders", Key=f"{prefix}/a")
    assert storage.names(here) == ["c", "deep", "marker"]
    assert not (here / "a").exists() and (here / "c").exists()
    assert [path.name for path in here.iterdir()] == ["c", "deep", "marker"]  # as Orbax asks


@pytest.mark.parametrize("name", ("http://host/x", "s3:/bucket/x", "s3://", "s3:///x", "gs:/x", "az://a/b"))
def test_a_name_of_no_known_store_is_refused_with_what_is_allowed(name):
    with pytest.raises(storage.StorageError, match="^--config.output=.*s3://bucket/folder$"):
        storage.check("--config.output", name)


@pytest.mark.parametrize("place", ("s3", "gs"))
def test_a_bucket_that_is_missing_is_named_and_not_made(request, place):
    request.getfixturevalue(place)
    for _ in range(2):
        with pytest.raises(storage.StorageError, match="^--config.output=.*there is no bucket 'no-such-bucket'"):
            storage.check("--config.output", f"{place}://no-such-bucket/run")
    storage.check("--config.output", f"{request.getfixturevalue(place)}/not/there/yet")


@pytest.mark.parametrize("environment", ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, {"AWS_ACCESS_KEY_ID": ""}))
def test_a_store_that_does_not_answer_is_no_mistake_and_one_without_credentials_is(s3, environment):
    code = "from kaiyuan_jax import storage\ntry: storage.check('--o', 's3://run-folders/x')\n"
    code += "except Exception as error: print(type(error).__name__, error)"
    given = os.environ | environment | {"AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={k: v for k, v in given.items() if v}).stdout
    kind = "NoAnswerError" if "AWS_ENDPOINT_URL" in environment else "StorageError"
    assert said.startswith(f"{kind} --o=s3://run-folders/x: ") and len(said.splitlines()) == 1, said


def test_a_package_that_is_missing_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(storage.PACKAGES, "s3", "no_such_package")
    storage._system_of.cache_clear()
    try:
        with pytest.raises(storage.StorageError, match=r"needs the package no_such_package: pip install 'kaiyuan_jax\[s3\]'"):
            storage.path("s3://bucket/run")
    finally:
        storage._system_of.cache_clear()


def test_local_names_load_nothing_for_remote_ones():
    code = (
        "import sys; from kaiyuan_jax import storage; storage.check('--o', 'runs/x'); storage.names('runs/x')\n"
        "print([name for name in ('etils', 'fsspec', 'jax', 's3fs') if name in sys.modules], type(storage.path('runs/x')).__name__)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[] PosixPath\n"
