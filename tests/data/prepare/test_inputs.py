"""Files are found by name wherever they lie, and what describes a data set is no document of it."""

import gzip
import hashlib
import json
import pickle
import sys
import uuid

import fsspec
import huggingface_hub
import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile
from fsspec.registry import _registry as fsspec_registry
from hypothesis import given, settings

from kaiyuan_jax.data.prepare.inputs import Damaged, ReadError, Unreachable, checksum, find, opened

LINE = b'{"text": "x"}\n'


def tree(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def names(*inputs):
    found, skipped = find([str(item) for item in inputs])
    return [(item.name, item.kind) for item in found], skipped


def arrow_stream(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


def test_folders_are_read_by_name_with_text_files_as_documents(tmp_path):
    tree(tmp_path, {"sub/b.txt": b"\xef\xbb\xbfsecond", "a.md": b"first", "c.jsonl": LINE, ".hidden": b"no", ".git/x.txt": b"no"})
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\1")
    assert names(tmp_path) == ([("a.md", "text"), ("c.jsonl", "json"), ("sub/b.txt", "text")], ["picture.png"])


def test_a_file_called_text_is_left_to_its_reader_whatever_is_in_it(tmp_path):
    tree(tmp_path, {"a.txt": b"a\xff", "b.md": b"\0", "c.other": b"a\xff"})
    assert names(tmp_path) == ([("a.txt", "text"), ("b.md", "text")], ["c.other"])


def test_sizes_and_checksums_are_of_the_bytes_as_stored(tmp_path):
    packed = gzip.compress(LINE)
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    (input,), _ = find([str(tmp_path / "a.jsonl.gz")])
    assert (input.bytes, checksum(input)) == (len(packed), hashlib.sha256(packed).hexdigest())


def test_a_glob_names_files_relative_to_its_fixed_folder_and_a_file_counts_once(tmp_path):
    tree(tmp_path, {"d/a/x.jsonl": LINE, "d/b/x.jsonl": LINE, "d/b/y.txt": b"y", "d/c/z.bin": b"\0"})
    assert names(f"{tmp_path}/d/*/x.jsonl")[0] == [("a/x.jsonl", "json"), ("b/x.jsonl", "json")]
    assert names(f"{tmp_path}/d/*/*.*") == ([("a/x.jsonl", "json"), ("b/x.jsonl", "json"), ("b/y.txt", "text")], ["c/z.bin"])
    assert names(f"{tmp_path}/d/[ab]")[0] == [("a/x.jsonl", "json"), ("b/x.jsonl", "json"), ("b/y.txt", "text")]
    assert len(names(tmp_path / "d", tmp_path / "d" / "b" / "y.txt", f"{tmp_path}/d/b/*")[0]) == 3


def test_files_of_one_name_get_the_folders_that_tell_them_apart(tmp_path):
    tree(tmp_path, {f"{folder}/t.jsonl": LINE for folder in ("x/a", "y/a", "b", "c/b", "d")} | {"d/only.txt": b"x", "b/deep/o.txt": b"x"})

    def named(*folders):
        return [name for name, _ in names(*(tmp_path / folder for folder in folders))[0]]

    assert named("b", "d") == ["b/t.jsonl", "d/t.jsonl", "deep/o.txt", "only.txt"]
    assert named("x/a", "y/a", "d") == ["d/t.jsonl", "only.txt", "x/a/t.jsonl", "y/a/t.jsonl"]
    assert named("b/t.jsonl", "d/t.jsonl") == ["b/t.jsonl", "d/t.jsonl"]
    # The longer name of one is the own name of another.
    assert named("c", "b", "d/t.jsonl")[0] == "c/b/t.jsonl" and f"{tmp_path.name}/b/t.jsonl" in named("c", "b", "d/t.jsonl")
    assert named("b", "b/t.jsonl") == ["deep/o.txt", "t.jsonl"]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.text("ab", min_size=1, max_size=5), min_size=1), st.lists(st.text("ab", max_size=2), max_size=4), st.randoms())
def test_names_are_unique_and_the_same_wherever_the_folders_lie(tmp_path_factory, files, inputs, random):
    def found(root, inputs):
        tree(root, {f"in/{'/'.join(file)}/t.txt": b"x" for file in files} | {"in/t.txt": b"x"})
        folders = [root / "in" / "/".join(item) for item in inputs]
        given = [str(folder) for folder in folders if folder.is_dir()] or [str(root)]
        return [(item.name, item.path.removeprefix(str(root))) for item in find(given)[0]]

    roots = [tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b") / "deeper"]
    # A folder inside another would be named by whichever comes first.
    inputs = [item for item in inputs if not any(other != item and item.startswith(other) for other in inputs)]
    first, second = found(roots[0], inputs), found(roots[1], random.sample(inputs, len(inputs)))
    assert first == second and [name for name, _ in first] == sorted({name for name, _ in first})
    assert all(path.endswith("/" + name) for name, path in first)


def test_a_file_whose_name_holds_a_glob_character_is_that_file(tmp_path):
    tree(tmp_path, {"a[1].jsonl": LINE})
    assert names(tmp_path / "a[1].jsonl")[0] == [("a[1].jsonl", "json")]


def test_a_data_set_from_the_hub_is_its_data_without_its_card(tmp_path):
    card = b"---\nlicense: mit\n---\n# A data set\n"
    tree(tmp_path / "a", {"README.md": card, "dataset_infos.json": b"{}", ".gitattributes": b"x", ".cache/huggingface/m.json": b"{}"})
    (tmp_path / "a" / "data").mkdir()
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a" / "data" / "train-00000-of-00001.parquet")
    assert names(tmp_path / "a") == ([("data/train-00000-of-00001.parquet", "parquet")], ["README.md", "dataset_infos.json"])
    tree(tmp_path / "b", {"README.md": card, "train.jsonl": LINE})
    assert names(tmp_path / "b") == ([("train.jsonl", "json")], ["README.md"])
    # Only a card is left out: other notes beside data, and a README of a folder of texts, are documents.
    tree(tmp_path / "c", {"README.md": b"# Notes\n", "train.jsonl": LINE, "state.json": LINE})
    assert [name for name, _ in names(tmp_path / "c")[0]] == ["README.md", "state.json", "train.jsonl"]


def test_a_data_set_saved_to_disk_is_its_arrow_files(tmp_path):
    tree(tmp_path, {"dataset_dict.json": b'{"splits": ["train"]}', "train/state.json": b"{}", "train/dataset_info.json": b"{}"})
    for part in range(2):
        arrow_stream(tmp_path / "train" / f"data-0000{part}-of-00002.arrow", [{"text": "x"}])
    arrow_stream(tmp_path / "train" / "cache-0123.arrow", [{"text": "made by map"}])
    found, skipped = names(tmp_path)
    assert found == [(f"train/data-0000{part}-of-00002.arrow", "arrow") for part in range(2)]
    assert skipped == ["dataset_dict.json", "train/cache-0123.arrow", "train/dataset_info.json", "train/state.json"]


@pytest.fixture
def memory():
    system, root = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    for name, content in {"d/a.jsonl": LINE, "d/sub/b.txt": b"text", "d/c.bin": b"\0\1", "d/.hidden": b"no"}.items():
        system.pipe(f"{root}/{name}", content)
    yield f"memory:/{root}"
    system.rm(root, recursive=True)


def test_urls_are_found_like_local_files(memory):
    assert names(f"{memory}/d") == ([("a.jsonl", "json"), ("sub/b.txt", "text")], ["c.bin"])
    assert names(f"{memory}/d/a.jsonl")[0] == [("a.jsonl", "json")]
    assert names(f"{memory}/d/**/*.txt")[0] == [("sub/b.txt", "text")]
    (input,), _ = find([f"{memory}/d/a.jsonl"])
    assert (input.bytes, checksum(input)) == (len(LINE), hashlib.sha256(LINE).hexdigest())


def refused(*inputs, error=ReadError):
    with pytest.raises(error) as caught:
        find([str(item) for item in inputs])
    assert caught.type is error and "\n" not in str(caught.value)
    return str(caught.value)


def test_inputs_that_do_not_exist_are_refused(tmp_path, memory):
    assert "no such file" in refused(tmp_path / "x")
    assert "no such file" in refused(tmp_path / "*.jsonl")
    assert "no such file" in refused(f"{memory}/nothing")
    assert "no text files found" in refused(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"\0")
    assert "not UTF-8 text" in refused(tmp_path / "a.bin")


def test_the_former_way_to_name_a_hub_data_set_gets_the_new_one():
    assert "hf://datasets/some/name/data/train-*.parquet" in refused("hf:some/name:train")


def test_a_protocol_without_its_package_says_what_to_install(monkeypatch):
    for protocol, package in (("s3", "s3fs"), ("gs", "gcsfs")):
        monkeypatch.setitem(sys.modules, package, None)  # what Python itself does for a package that must not be found
        monkeypatch.delitem(fsspec_registry, protocol, raising=False)  # where an earlier test has used it
        assert f"pip install {package}" in refused(f"{protocol}://bucket/folder")
    assert "use a local path, gs://, s3:// or hf://" in refused("nonsense://x")


def test_an_error_survives_the_way_back_from_a_worker():
    error = pickle.loads(pickle.dumps(Damaged("a.gz", "truncated")))
    assert (type(error), str(error), error.reason) == (Damaged, "a.gz: truncated", "truncated")


@pytest.mark.parametrize("error", [OSError, RuntimeError, EOFError])
def test_a_connection_that_breaks_is_unreachable_and_says_so_in_one_line(memory, monkeypatch, error):
    (input,), _ = find([f"{memory}/d/a.jsonl"])

    def broken(self, size=-1):
        raise error("connection lost\nwhile reading")

    monkeypatch.setattr(MemoryFile, "read", broken, raising=False)
    with pytest.raises(Unreachable, match=r"a.jsonl: cannot be reached \(connection lost\); check") as caught:
        checksum(input)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy)) == (Unreachable, str(caught.value)) and "\n" not in str(copy)


def test_what_is_gone_since_it_was_found_is_unreachable(tmp_path, memory):
    tree(tmp_path, {"a.txt": b"x"})
    for item in (str(tmp_path / "a.txt"), f"{memory}/d/a.jsonl"):
        (input,), _ = find([item])
        system, path = fsspec.url_to_fs(item)
        content = system.cat(path)
        system.rm(path)
        for reach in (checksum, lambda input: opened(input.path)):
            with pytest.raises(Unreachable, match="cannot be reached .*check that it still exists"):
                reach(input)
        system.pipe(path, content)


def test_the_hub_is_spoken_to_through_its_own_package(monkeypatch):
    seen = []

    def isdir(self, path):
        seen.append(path)
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfFileSystem, "isdir", isdir)
    message = refused("hf://datasets/some/name/data", error=Unreachable)
    assert seen == ["datasets/some/name/data"] and "no network" in message


def test_json_of_unusual_name_endings_is_lines(tmp_path):
    tree(tmp_path, {f"a.{end}": json.dumps({}).encode() for end in ("jsonl", "json", "ndjson", "NDJSON.gz", "ndjson.zst")})
    assert {kind for _, kind in names(tmp_path)[0]} == {"json"}
