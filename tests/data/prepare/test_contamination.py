"""Documents that quote evaluation sets are found, and no others."""

import json
import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare.contamination import ContaminationError, index, load, mark, save
from kaiyuan_jax.data.prepare.tally import Tally

WORDS = st.lists(st.sampled_from("abcd"), max_size=40)


def table(*texts, removed=None):
    columns = [pa.array(texts, pa.large_string()), pa.array(removed or [None] * len(texts), pa.large_string()), list(range(len(texts)))]
    return pa.table(columns, names=["text", "removed", "number"])


def marks(texts, sets, tally=None, minimum=1, n=13, removed=None):
    marked = mark(table(*texts, removed=removed), index(sets, n), tally if tally is not None else Tally(), minimum)
    assert marked.column("text").to_pylist() == list(texts) and marked.column("number").to_pylist() == list(range(len(texts)))
    return marked.column("removed").to_pylist()


def sentence(rng, words):
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(words))


@settings(deadline=None, max_examples=150)
@given(st.lists(WORDS, max_size=5), st.dictionaries(st.sampled_from(["x", "y", "z"]), st.lists(WORDS, max_size=3)), st.integers(1, 3))
def test_marks_are_those_of_the_plain_definition(documents, sets, minimum):
    def quoted(document, items):
        grams = {tuple(item[i : i + min(len(item), 9)]) for item in items if len(item) >= 8 for i in range(max(len(item) - 8, 1))}
        places = [tuple(document[i : i + length]) for length in (8, 9) for i in range(len(document) - length + 1)]
        return sum(place in grams for place in places)

    expected = []
    for document in documents:
        counts = {name: quoted(document, sets[name]) for name in sorted(sets)}
        best = max(counts, key=counts.get, default=None)
        expected.append(f"contamination {best}" if best and counts[best] >= minimum else None)
    items = {name: [" ".join(item) for item in some] for name, some in sets.items()}
    assert marks([" ".join(document) for document in documents], items, minimum=minimum, n=9) == expected


def test_a_quotation_is_found_whatever_its_spelling_and_the_example_shows_it():
    rng = random.Random(0)
    item = "In 1492, the Café's owner asked: how many of the 17 ships had sailed before noon?"
    text = f"{sentence(rng, 50)}. {item.upper().replace('É', 'e').replace('17', '23')} {sentence(rng, 50)}"
    tally = Tally()
    assert marks([text, sentence(rng, 100)], {"quiz": [item]}, tally) == ["contamination quiz", None]
    assert tally.counts == {"contamination quiz": 1}
    (example,) = tally.examples["contamination quiz"]
    assert example == "IN 1492, THE CAFe'S OWNER ASKED: HOW MANY OF THE 23 SHIPS"


def test_chinese_items_are_found_inside_text_without_spaces():
    item = "下列关于光合作用的说法中正确的是哪一项"
    assert marks([f"我们先看一道题，{item}？请回答。", "光合作用的说法很多，正确的只有一项。"], {"exam": [item]}) == [
        "contamination exam",
        None,
    ]


def test_short_items_are_looked_for_whole_from_eight_words_on():
    rng = random.Random(1)
    eight, seven = sentence(rng, 8), sentence(rng, 7)
    sets = {"short": [eight, seven, "Yes."]}
    assert index(sets).skipped == {"short": 2}
    assert marks([f"so {eight} and", f"so {seven} and", eight.rsplit(" ", 1)[0]], sets) == ["contamination short", None, None]


def test_items_too_short_to_be_looked_for_are_counted_for_every_set():
    long = sentence(random.Random(8), 20)
    found = index({"answers": ["Yes.", "", "one two three"], "mixed": [long, "No.", sentence(random.Random(9), 8)], "long": [long]})
    assert found.skipped == {"answers": 3, "long": 0, "mixed": 1}
    assert json.loads(json.dumps(found.skipped)) == found.skipped


def test_twelve_words_of_a_longer_item_are_no_quotation():
    words = sentence(random.Random(2), 20).split()
    assert marks([" ".join(words[4:16]), " ".join(words[4:17])], {"set": [" ".join(words)]}) == [None, "contamination set"]


def test_rows_removed_before_keep_their_reason_and_are_not_counted():
    item = sentence(random.Random(3), 15)
    tally = Tally()
    assert marks([item, item], {"set": [item]}, tally, removed=["too short", None]) == ["too short", "contamination set"]
    assert tally.counts == {"contamination set": 1}


def test_the_set_most_quoted_is_named_and_a_shared_item_goes_to_the_first_by_name():
    rng = random.Random(4)
    shared, own = sentence(rng, 14), sentence(rng, 16)
    sets = {"b": [shared, own], "a": [shared]}
    assert marks([shared, f"{shared} {own}"], sets) == ["contamination a", "contamination b"]


def test_marks_do_not_depend_on_how_rows_are_batched():
    rng = random.Random(5)
    items = [sentence(rng, 20) for _ in range(5)]
    texts = [f"{sentence(rng, 30)} {items[i % 7]}" if i % 7 < 5 else sentence(rng, 40) for i in range(60)]
    whole, parts = Tally(), Tally()
    expected = marks(texts, {"set": items}, whole)
    assert [marked for text in texts for marked in marks([text], {"set": items}, parts)] == expected
    assert whole.to_json() == parts.to_json() and expected.count(None) == 60 - whole.counts["contamination set"]
    assert marks([], {"set": items}) == [] and marks(texts, {}) == [None] * 60


def test_an_index_is_saved_small(tmp_path):
    rng = random.Random(6)
    save(tmp_path / "index.npz", index({"set": [sentence(rng, 112) for _ in range(100)]}))
    assert (tmp_path / "index.npz").stat().st_size < 18 * 100 * 100 + 2000


def test_too_short_ngrams_are_refused():
    with pytest.raises(ContaminationError, match="5 words; at least 8"):
        index({"set": ["x"]}, n=5)


def test_a_saved_index_is_the_same_index(tmp_path):
    made = index({"a": ["one two three four five six seven eight nine", "short"], "bé": [sentence(random.Random(1), 40)]})
    save(tmp_path / "index.npz", made)
    again = load(tmp_path / "index.npz")
    assert (again.sets, again.skipped) == (made.sets, made.skipped) == (("a", "bé"), {"a": 1, "bé": 0})
    assert (again.beginnings == made.beginnings).all() and set(again.hashes) == set(made.hashes) == set(again.members) == {9, 13}
    for length in made.hashes:
        assert (again.hashes[length] == made.hashes[length]).all() and (again.members[length] == made.members[length]).all()
