"""The offline suite: right answers that are right, wrong ones as near as their level says, nothing that training text quotes."""

import io
import json
import tarfile

import numpy as np
import pytest

from kaiyuan_jax.data.corpora import evaluation_packages as packages
from kaiyuan_jax.data.corpora import fetch
from kaiyuan_jax.evaluation import tasks
from kaiyuan_jax.evaluation.tasks.build import definitions, distractors, human_eval, minimal_pairs, passages, poems, suite


def by_level(items):
    found = {}
    for item in items:
        assert len(set(item.choices)) == len(item.choices)
        found.setdefault(item.level, []).append(item)
    return found


def synset(number, speech="n", kind="k0", tags=5):
    word = "".join(chr(97 + int(digit)) for digit in f"{number:03}") + "q" * (number % 4)
    text = f"something that is known by its number {'long ' * (number % 7)}{number}"
    return packages.Synset(f"{speech}{number}", speech, (word, f"{word}x"), (tags, 0), text, (kind,))


SYNSETS = [synset(n, "nv"[n % 2], f"k{n % 6}") for n in range(240)]


@pytest.mark.parametrize("builder", [definitions.definition, definitions.word])
def test_wrong_definitions_are_as_near_as_their_level_says(builder):
    of_word = {one.words[0]: one for one in SYNSETS}
    of_text = {one.definition: one for one in SYNSETS}
    found = by_level(builder(SYNSETS, np.random.default_rng(0)))
    assert set(found) == {1, 2, 3} and len(found[1]) == len(SYNSETS)
    for level, items in found.items():
        for item in items:
            asked, *others = [(of_word | of_text)[item.choices[n].strip()] for n in sorted(range(4), key=lambda n: n != item.gold)]
            shown = asked.words[0] if builder is definitions.definition else asked.definition[1:]
            assert item.id.startswith(asked.id) and shown in item.context
            if level > 1:
                assert all(one.speech == asked.speech for one in others)
                assert all(definitions._alike(choice, item.choices[item.gold]) for choice in item.choices)
            if level == 3:
                assert all(one.kinds == asked.kinds for one in others)


def test_words_are_asked_for_in_the_meaning_that_is_used_most():
    rare, used = synset(1, tags=1), packages.Synset("n9", "n", synset(1).words, (8, 0), "a thing of quite another kind", ())
    unused, named = synset(2, tags=0), packages.Synset("n8", "n", ("dog",), (3,), "a dogged animal that follows people", ())
    assert definitions.asked([rare, used, unused, named]) == [used]


def poem(number, random):
    han = [chr(0x4E00 + int(n)) for n in random.integers(0, 400, 60)]
    size = 5 + number % 2
    halves = ["".join(han[i : i + size]) for i in range(0, 4 * size, size)]
    return packages.Poem(f"p{number}", "", (f"{halves[0]}，{halves[1]}。", f"{halves[2]}，{halves[3]}。"))


def test_wrong_lines_of_poems_have_as_many_characters_from_level_two_on():
    random = np.random.default_rng(1)
    made = {one.id: one for one in (poem(n, random) for n in range(60))}
    found = by_level(poems.poem(list(made.values()), np.random.default_rng(0)))
    nearness = {}
    for level, items in found.items():
        for item in items:
            whole = "".join(made[item.id.partition(".")[0]].verses)
            assert whole == item.context + item.choices[item.gold]
            assert level == 1 or len({len(choice) for choice in item.choices}) == 1
            shared = [len(distractors.words(choice) & distractors.words(whole)) for n, choice in enumerate(item.choices) if n != item.gold]
            nearness.setdefault(level, []).append(np.mean(shared))
    assert np.mean(nearness[3]) > 2 * np.mean(nearness[2])


def test_minimal_pairs_agree_and_no_word_is_right_by_being_common():
    found = by_level(minimal_pairs.minimal_pairs(np.random.default_rng(0), 200))
    assert {level: len(items) for level, items in found.items()} == {1: 200, 2: 200, 3: 200}
    for item in found[3]:
        if item.id.startswith("verb_over_disagreeing"):
            many, near = item.context.split()[1].endswith("s"), item.context.split()[-1].endswith("s")
            assert many != near and item.choices[item.gold].startswith(" are" if many else " is")
        if item.id.startswith("reflexive_over"):
            who = item.context.partition(",")[0]
            assert item.choices[item.gold] == (" herself." if who in minimal_pairs.WOMEN else " himself.")
    right = [item.choices[item.gold].split()[0] for items in found.values() for item in items]
    wrong = [item.choices[1 - item.gold].split()[0] for items in found.values() for item in items]
    for word in ("is", "are", "himself.", "herself.", "than", "as", "nor", "or"):
        assert 0.35 < right.count(word) / (right.count(word) + wrong.count(word)) < 0.65, word


def test_passages_are_cut_where_a_word_ends_and_follow_one_another():
    text = " ".join(f"word{n}" for n in range(200))
    context, found = passages.cut(text)
    assert text.startswith(context + "".join(found)) and len(found) > 3
    assert all(passages.PASSAGE <= len(one) <= 1.5 * passages.PASSAGE and one[0] == " " for one in found)
    assert passages.cut("x" * 5000) == ("", []) and passages.cut("") == ("", [])
    chinese = "，".join("学而时习之不亦说乎"[: 3 + n % 6] for n in range(120))
    context, found = passages.cut(chinese)
    assert len(context.encode()) >= passages.CONTEXT and found and all(one[0] == "，" for one in found)


def test_the_hardest_wrong_passages_are_of_the_same_document():
    documents = {
        name: {f"{name}{d}": " ".join(f"{name}{d}{chr(97 + n % 26)}{n}" for n in range(150)) for d in range(8)} for name in ("a", "b")
    }
    found = by_level(passages.next_passage(documents, "a", np.random.default_rng(0)))
    for item in found[3]:
        text = documents["a"][item.id.partition("/")[0]]
        assert text.startswith(item.context + item.choices[item.gold]) and all(choice in text for choice in item.choices)
        assert {len(choice.encode()) for choice in item.choices} == {passages.PASSAGE}
    own = [choice for item in found[2] for choice in item.choices]
    assert all(choice.startswith(" a") for choice in own)
    assert any(choice.startswith(" b") for item in found[1] for choice in item.choices)


@pytest.mark.parametrize("source", ["spaced", "dense"])
def test_neither_the_shortest_nor_the_longest_passage_is_right_more_often_than_by_chance(source):
    random = np.random.default_rng(0)

    def document(alphabet, mark, most):
        words = ["".join(random.choice(alphabet, random.integers(2, most))) for _ in range(random.integers(60, 200))]
        return mark.join(words)

    latin, han = list("abcdefghijklmnop"), list("学而时习之不亦说乎有朋自远方来ab1")
    documents = {  # words of a document are short or long; dense ones reach further, and some of their characters have one byte
        "spaced": {f"s{n}": document(latin, " ", 4 + 9 * (n % 3)) for n in range(120)},
        "dense": {f"d{n}": document(han, "，", 16 + 4 * (n % 3)) for n in range(120)},
    }
    sizes = {len(passage.encode()) for texts in documents.values() for text in texts.values() for passage in passages.cut(text)[1]}
    assert max(sizes) - min(sizes) > 20
    for level, items in by_level(passages.next_passage(documents, source, random)).items():
        right = []
        for item in items:
            size = np.array([len(choice.encode()) for choice in item.choices])
            right.append([(size[item.gold] == end) / np.sum(size == end) for end in (size.min(), size.max())])
        assert len(right) > 60, level
        noise = np.sqrt(0.25 * 0.75 / len(right))
        assert np.all(np.abs(np.mean(right, axis=0) - 0.25) < 3 * noise), level


def test_a_passage_is_cut_to_whole_characters():
    assert passages.beginning("学而时", 6) == "学而" == passages.beginning("学而时", 8) and passages.beginning("abc", 9) == "abc"


def archive(path, files):
    with tarfile.open(path, "w:gz") as file:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text.encode())
            file.addfile(member, io.BytesIO(text.encode()))


def test_packages_are_read_as_records(tmp_path):
    line = '00006484 03 n 02 cell 0 prison_cell 1 002 @ 00004475 n 0000 ;c 06037666 n 0000 | (biology) the unit of life; "a cell"  '
    found = packages._synset(line, {"cell%1:03:00": 12})
    assert found == packages.Synset("n00006484", "n", ("cell", "prison cell"), (12, 0), "(biology) the unit of life", ("n00004475",))
    entries = [{"author": "x", "paragraphs": ["一二三四，五六七八。", " "]}, {"paragraphs": []}, {"paragraphs": ["一二三四，五六七八。"]}]
    archive(tmp_path / "p.tgz", {"dist/songci/ci.song.0.json": json.dumps(entries), "dist/other.json": "[]"})
    assert list(packages.poems(tmp_path / "p.tgz", suite.SONG)) == [packages.Poem("ci.song.0#0", "x", ("一二三四，五六七八。",))]
    with pytest.raises(fetch.FetchError, match="layout may have changed"):
        list(packages.poems(tmp_path / "p.tgz", "nothing"))


def test_a_package_with_another_sum_is_refused_and_one_without_its_tool_says_so(tmp_path, monkeypatch):
    (tmp_path / "npm").mkdir()
    archive(tmp_path / "npm" / "chinese-poetry-2.0.1.tgz", {})
    with pytest.raises(fetch.FetchError, match="chinese-poetry-2.0.1.tgz: sha256 is .* must be 25b5"):
        fetch.archives(tmp_path, [packages.POEMS])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(fetch.FetchError, match="npm not found; install it, or put chinese-poetry-2.0.1.tgz"):
        fetch.archives(tmp_path / "empty", [packages.POEMS])


def test_solutions_are_one_choice_after_the_prompt():
    problems = [packages.Problem(f"HumanEval/{n}", f'def f{n}():\n    """x"""\n', "    return 1" + "0" * n + "\n") for n in range(4)]
    items = human_eval.human_eval(problems)
    assert items[3] == tasks.Item("HumanEval/3", 'def f3():\n    """x"""', ("\n    return 1000",), 0, 2, "loss")
    assert [item.level for item in items] == [1, 1, 2, 2]


QUOTED = "the small bird sang of rain and wind while the dog ran over the hill to the sea"


def test_what_training_text_quotes_is_left_out_and_what_is_short_is_counted(make_store, tmp_path):
    store = make_store(tmp_path / "train", 2, texts=[f"on the mat. {QUOTED}!", "a cat sat"])
    found = suite.Candidates(
        "t",
        [
            tasks.Item("quoted", QUOTED[:60], (QUOTED[60:], " no"), 0),
            tasks.Item("free", "a bird and a dog and a cat and a hill and a sea", (" and rain", " no"), 0),
            tasks.Item("short", "a cat", (" sat", " no"), 0),
        ],
        {},
    )
    quoted, short = suite.quotations([found], {"train": store})
    assert quoted == {"t quoted"} and short == {"t short"}
    task = suite._task(found, quoted, short, 5)
    assert [item.id for item in task.items] == ["free", "short"]
    assert task.facts["quoted"] == 1 and task.facts["too_short_to_look_for"] == 1
    with pytest.raises(tasks.TaskError, match="nothing is left of t"):
        suite._task(found, {f"t {item.id}" for item in found.items}, set(), 5)


def test_the_same_seed_gives_the_same_bytes_and_other_tasks_change_nothing(make_store, tmp_path):
    from tests.evaluation.conftest import text

    random = np.random.default_rng(3)
    texts = [text(random, 150, False) for _ in range(12)]
    heldout, train = make_store(tmp_path / "heldout", 12, texts=texts), make_store(tmp_path / "train", 3, texts=texts[:3])

    def built(name, names, seed=0):
        made = suite.build(tmp_path / name, names, tmp_path, heldout={"web": heldout}, against={"train": train}, count=4, seed=seed)
        return {task: made.tasks[task].fingerprint for task in made.tasks}, made

    first, made = built("a", ["minimal_pairs", "next_passage"])
    again, _ = built("b", ["next_passage"])
    other, _ = built("c", ["next_passage"], seed=1)
    assert again["next_passage_web"] == first["next_passage_web"] != other["next_passage_web"]
    facts = made.tasks["next_passage_web"].facts
    assert facts["quoted"] > 0 and set(facts["items_by_level"].values()) <= {1, 2, 3, 4}
    assert made.facts["decontaminated_against"]["train"]["documents"] == 3
    quoted = {item.id.rpartition("/")[0] for item in made.tasks["next_passage_web"].items}
    assert not quoted & {f"document-{n}@{n}" for n in range(3)}
