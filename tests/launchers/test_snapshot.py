"""A small repository whose working tree differs from its commit in every way."""

import json
import subprocess
import tarfile

import pytest

from kaiyuan_jax import config
from kaiyuan_jax.config import UserError
from kaiyuan_jax.launchers import snapshot

KEY = "hf_" + "a1B2" * 8


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    root.mkdir()

    def git(*arguments):
        subprocess.run(["git", "-C", root, "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True)

    committed = {"train.py": "one\ntwo\n", "gone.py": "", "published.py": f"example = '{KEY}'\n"}
    for name, text in (committed | {"requirements.lock": "jax==1\n", ".gitignore": "/data/\n"}).items():
        (root / name).write_text(text)
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    (root / "train.py").write_text("one\ntwo\nthree\n")
    (root / "gone.py").unlink()
    (root / "new.py").write_text("new\n")
    (root / "data").mkdir()
    (root / "data/ignored.bin").write_text("ignored")
    return root


@pytest.fixture
def experiment(tree):
    return config.Experiment(output=str(tree / "runs/x"))


def members(taken) -> dict[str, bytes]:
    with tarfile.open(f"{taken.folder}/code.tar.gz") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def test_it_holds_the_working_tree_the_change_the_config_and_the_lock(tree, experiment):
    taken = snapshot.take(tree, experiment, ["--config=x.py", "--config.seed=1"])
    held = members(taken)
    assert sorted(held) == [".gitignore", "new.py", "published.py", "requirements.lock", "train.py"]
    assert held["train.py"] == b"one\ntwo\nthree\n"
    folder = tree / "runs/x/snapshots" / taken.name
    assert str(folder) == taken.folder
    assert "+three" in (folder / "changes.diff").read_text()
    assert config.read(folder / "config.json") == experiment
    assert (folder / "requirements.lock").read_text() == "jax==1\n"
    about = json.loads((folder / "snapshot.json").read_text())
    assert len(about["commit"]) == 40 and about["arguments"] == ["--config=x.py", "--config.seed=1"]
    assert {" M train.py", " D gone.py", "?? new.py"} <= set(about["changed"])
    assert "numpy" in about["installed"]


def test_the_same_tree_is_kept_once_and_another_beside_it(tree, experiment):
    first = snapshot.take(tree, experiment, [])
    (tree / "train.py").touch()
    assert snapshot.take(tree, experiment, []).name == first.name  # nor does the run folder, which lies in the tree, become part of it
    (tree / "new.py").write_text("newer\n")
    assert snapshot.take(tree, experiment, []).name != first.name
    assert len(list((tree / "runs/x/snapshots").iterdir())) == 2


def test_it_is_unpacked_where_it_is_asked_for(tree, experiment, tmp_path):
    taken = snapshot.take(tree, experiment, [])
    for _ in range(2):
        folder = taken.unpack(tmp_path / "there")
        assert (folder / "code/train.py").read_text() == "one\ntwo\nthree\n"
        assert config.read(folder / "config.json") == experiment


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (".env", "a", "named like credentials"),
        ("sub/my-credentials.json", "{}", "named like credentials"),
        (".aws/config", "a", "named like credentials"),
        ("notes.txt", f"the key is {KEY}", "holds a key"),
        ("notes.txt", "s3://user:word@host/x", "holds a user or password in a URL"),
        ("large.bin", "x" * (snapshot.LARGEST + 1), "larger than 1,048,576 bytes"),
    ],
)
def test_what_looks_like_a_secret_or_like_data_is_left_out_and_named(tree, experiment, name, text, reason):
    (tree / name).parent.mkdir(exist_ok=True)
    (tree / name).write_text(text)
    taken = snapshot.take(tree, experiment, [])
    assert name not in members(taken)
    assert json.loads(open(f"{taken.folder}/snapshot.json").read())["left_out"] == {name: reason}


def test_a_link_out_of_the_tree_is_not_followed(tree, experiment, tmp_path):
    (tmp_path / "outside").write_text("outside")
    (tree / "link").symlink_to(tmp_path / "outside")
    assert "link" not in members(snapshot.take(tree, experiment, []))


def test_a_changed_line_with_a_secret_is_refused_with_its_place(tree, experiment):
    (tree / "train.py").write_text(f"one\ntwo\nkey = '{KEY}'\n")
    with pytest.raises(UserError, match="train.py:3: holds a key"):
        snapshot.take(tree, experiment, [])
    assert not (tree / "runs").exists()


def test_no_secret_of_the_environment_or_the_arguments_is_written(tree, experiment, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "verysecretvalue")
    monkeypatch.setenv("JAX_SOMETHING", "https://user:word@host")
    taken = snapshot.take(tree, experiment, [f"--key={KEY}", "--value=verysecretvalue"])
    about = open(f"{taken.folder}/snapshot.json").read()
    assert "verysecretvalue" not in about and KEY not in about and "word@" not in about
    assert "JAX_SOMETHING" in about and "MY_TOKEN" not in about


def test_without_git_the_package_itself_is_kept(tmp_path):
    (tmp_path / "tree/kaiyuan_jax").mkdir(parents=True)
    (tmp_path / "tree/kaiyuan_jax/a.py").write_text("a")
    (tmp_path / "tree/other.txt").write_text("b")
    taken = snapshot.take(tmp_path / "tree", config.Experiment(output=str(tmp_path / "run")), [])
    assert list(members(taken)) == ["kaiyuan_jax/a.py"]
    assert json.loads(open(f"{taken.folder}/snapshot.json").read())["commit"] == "not a git repository"
