"""Near-duplicates share bands as often as the theory says, whatever their script, spelling and neighbours."""

import random
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare import minhash

TEXT = st.text(alphabet="ab1 -.é\u0301中文ก가\n\u00ad", max_size=60)


def bands(*texts, **options):
    return minhash.bands(pa.array(texts, pa.large_string()), minhash.Options(**options)).to_pylist()


def hashes(text):
    return minhash.words(pa.array([text], pa.large_string()))[0].tolist()


def random_word(rng):
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=9))


def pair(rng, words, replaced):
    """Two texts of which `replaced` words differ, each more than an n-gram from the next: each spoils five n-grams of either text."""
    one = [random_word(rng) for _ in range(words)]
    other = one[:]
    for place in rng.sample(range(5, words - 5, 5), replaced):
        other[place] = random_word(rng)
    return " ".join(one), " ".join(other), (words - 4 - 5 * replaced) / (words - 4 + 5 * replaced)


def test_128_permutations_and_a_threshold_of_70_percent_give_14_bands_of_9_rows():
    assert minhash.optimal_bands(128, 0.7) == (14, 9)
    assert minhash.Options().shape == (14, 9)


@pytest.mark.parametrize(("threshold", "bands", "rows"), [(0.5, 25, 5), (0.9, 5, 25), (0.8, 9, 13)])
def test_bands_and_rows_are_those_of_datasketch(threshold, bands, rows):
    assert minhash.optimal_bands(128, threshold) == (bands, rows)


def test_the_curve_is_half_at_75_percent_and_rises():
    values = minhash.probability(np.linspace(0, 1, 101), 14, 9)
    assert values[0] == 0 and values[-1] == 1 and (np.diff(values) >= 0).all()
    np.testing.assert_allclose(minhash.probability([0.6, 0.7, 0.8, 0.9], 14, 9), [0.132, 0.438, 0.868, 0.999], atol=1e-3)


@pytest.mark.parametrize("replaced", [2, 3, 5, 8])
def test_planted_near_duplicates_are_found_as_often_as_the_curve_says(replaced):
    rng = random.Random(replaced)
    pairs = [pair(rng, 120, replaced) for _ in range(600)]
    found = bands(*(text for one, other, _ in pairs for text in (one, other)))
    share = np.mean([bool(set(one) & set(other)) for one, other in zip(found[::2], found[1::2], strict=True)])
    expected = float(minhash.probability(pairs[0][2], 14, 9))
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / len(pairs)) + 1e-3


def test_shared_minima_estimate_the_jaccard_similarity_without_bias_and_as_if_independent():
    rng = random.Random(0)
    pairs = [pair(rng, 300, 10) for _ in range(300)]
    similarity = pairs[0][2]
    minima = []
    for side in (0, 1):
        words, offsets = minhash.words(pa.array([texts[side] for texts in pairs], pa.large_string()))
        grams, counts = minhash.ngrams(words, offsets, 5)
        starts = np.append(0, np.cumsum(counts))[:-1]
        minima.append(minhash._minima((grams >> np.uint64(32)).astype(np.uint32), starts, 126, seed=5))
    estimates = (minima[0] == minima[1]).mean(axis=0)
    deviation = np.sqrt(similarity * (1 - similarity) / 126)
    assert abs(estimates.mean() - similarity) < 4 * deviation / np.sqrt(len(pairs))
    assert 0.85 < estimates.std() / deviation < 1.15


def test_unrelated_texts_share_no_band():
    rng = random.Random(1)
    found = bands(*(" ".join(random_word(rng) for _ in range(40)) for _ in range(3000)))
    values = [value for row in found for value in row]
    assert len(set(values)) == len(values) == 3000 * 14


@settings(deadline=None, max_examples=80)
@given(st.lists(st.one_of(st.none(), TEXT), max_size=12), st.data())
def test_bands_of_a_text_do_not_depend_on_its_neighbours(texts, data):
    cut = data.draw(st.integers(0, len(texts)))
    column = pa.array(texts, pa.large_string())
    both = minhash.bands(column.slice(0, cut)).to_pylist() + minhash.bands(column.slice(cut)).to_pylist()
    assert minhash.bands(column).to_pylist() == both == [row for text in texts for row in bands(text)]


@settings(deadline=None, max_examples=80)
@given(TEXT.filter(lambda text: "가" not in text))
def test_composed_and_decomposed_letters_give_the_same_words(text):
    assert hashes(unicodedata.normalize("NFC", text)) == hashes(unicodedata.normalize("NFD", text))


@settings(deadline=None, max_examples=150)
@given(TEXT)
def test_words_are_those_of_the_slow_and_plain_definition(text):
    plain = unicodedata.normalize("NFC", text)
    words, word = [], ""
    for character in unicodedata.normalize("NFD", plain.replace("가", "\ue000")).replace("\ue000", "가"):
        if unicodedata.category(character) in ("Mn", "Cf"):
            continue
        if character in "中文ก":
            words, word = [*words, word, character], ""
        elif character.isalnum():
            word += "0" if character.isdigit() else character
        else:
            words, word = [*words, word], ""
    words = [found for found in [*words, word] if found]
    assert hashes(plain) == [value for found in words for value in hashes(found)]
    assert len(hashes(plain)) == len(words) and len(set(hashes(plain))) == len(set(words))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The Year, 1984: (a novel)", "the year 2013 a NOVEL"),
        ("Crème brûlée à la carte", "creme brulee a la carte"),
        ("Ａｂｃ １２", "abc 99"),
        ("co\u00adoperate now", "cooperate\tnow"),
        ("Привет, мир!", "привет мир"),
        ("你好，世界。", "你 好 世 界"),
        ("สวัสดี", "ส ว ส ด"),
        ("ひらがなカタカナ", "ひ ら か な カ タ カ ナ"),
    ],
)
def test_case_digits_punctuation_diacritics_and_blanks_do_not_matter(one, other):
    assert hashes(one) == hashes(other)


@pytest.mark.parametrize(("one", "other"), [("ab cd", "abcd"), ("ab", "ba"), ("ab cd", "cd ab"), ("가나", "나가"), ("中", "文")])
def test_different_words_differ(one, other):
    assert hashes(one) != hashes(other)


def test_unsegmented_scripts_are_seen_by_characters_and_others_by_words():
    assert len(hashes("使用 Python 3 训练模型")) == 8
    assert len(hashes("한국어 문장")) == 2


def test_texts_with_fewer_words_than_an_ngram_have_no_bands():
    assert bands("", "one two three four", "一二三四", None, "...") == [None] * 5
    assert None not in bands("one two three four five", "一二三四五")
    assert bands("one two", ngram=2) != [None]


def test_no_texts_give_no_bands():
    assert bands() == []
    assert minhash.bands(pa.array([], pa.large_string())).type == pa.list_(pa.uint64(), 14)


@pytest.mark.parametrize("blank", [" ", ""])
def test_a_long_text_in_one_line_has_the_words_of_its_parts(blank):
    rng = random.Random(2)
    character = (lambda: random_word(rng)) if blank else (lambda: chr(rng.randrange(0x4E00, 0x9FFF)))
    words = [character() for _ in range(4 * minhash.BLOCK // (10 if blank else 3))]
    text = blank.join(words)
    assert len(text.encode()) > 3 * minhash.BLOCK
    found, offsets = minhash.words(pa.array(["a b", text, "c"], pa.large_string()))
    expected, _ = minhash.words(pa.array(["a b", *words, "c"], pa.large_string()))
    assert found.tolist() == expected.tolist() and offsets.tolist() == [0, 2, 2 + len(words), 3 + len(words)]


def test_a_word_longer_than_a_block_is_cut_the_same_way_wherever_it_stands():
    text = "中" + "é" * minhash.BLOCK + " b c d e f"
    assert bands("x y z u v w", text)[1] == bands(text)[0] is not None


def test_seeds_give_other_bands_and_runs_the_same():
    text = "the quick brown fox jumps over the lazy dog"
    assert bands(text) == bands(text) and not set(bands(text)[0]) & set(bands(text, seed=7)[0])
    # Bands are stored, so that a change of the arithmetic must not go unnoticed.
    assert bands(text)[0][:2] == [6097066975639749054, 13548932625182349207]


def test_spans_give_the_words_as_written():
    assert [span.strip() for span in minhash.spans("Hello, wörld\u00ad! 你好 x2")] == ["Hello,", "wörld!", "你", "好", "x2"]
    assert minhash.spans("...") == []
