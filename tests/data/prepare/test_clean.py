"""Cleaning marks and counts; how the input was cut into tables changes nothing."""

import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare.clean import Options, clean, problems
from kaiyuan_jax.data.prepare.personal_data import MASKS
from kaiyuan_jax.data.prepare.tally import Tally

GOOD = "\n".join(
    f"In chapter {number} the author explains how the method works, and why it was found to be better than those of the year before."
    for number in range(5)
)
ENGLISH = Options(rules=("web_en",), mask=("email", "phone", "key", "ip"), languages=("en",))
SCHEMA = pa.schema([("id", pa.large_string()), ("text", pa.large_string()), ("quality", pa.float64()), ("metadata", pa.large_string())])


def table(*texts):
    return pa.table([[str(n) for n in range(len(texts))], list(texts), [0.5] * len(texts), [None] * len(texts)], schema=SCHEMA)


def test_rows_are_marked_with_what_removed_them_and_none_is_dropped():
    texts = [GOOD, "Advertisement", "too short", GOOD + "\nAdvertisement\n\n\nWrite to a1@b.com.", "Der Hund und die Katze. of the " * 30]
    got = clean(table(*texts), ENGLISH, Tally())
    assert got["removed"].to_pylist() == [None, "empty", "web_en/words", None, "language"]
    assert got["language"].to_pylist() == ["en", None, None, "en", "de"]
    assert got["text"].to_pylist()[3] == GOOD + "\n\n\nWrite to <email>."
    assert got.column_names == [*SCHEMA.names, "removed", "language"]
    assert got.schema.field("removed").type == got.schema.field("language").type == pa.large_string()
    assert got.drop_columns(["text", "removed", "language"]).equals(table(*texts).drop_columns(["text"]))


def test_no_options_change_no_text_and_ask_for_no_language():
    got = clean(table("a\n\nb", ""), Options(), Tally())
    assert got["text"].to_pylist() == ["a\n\nb", ""]
    assert got["removed"].to_pylist() == [None, "empty"]
    assert got["language"].null_count == 2


def test_blanks_left_by_a_cut_are_trimmed():
    options = Options(rules=("chinese",))
    text = "今天天气很好，我们一起去公园散步。" * 4
    got = clean(table(f"首页 > 新闻\n\n{text}\n\n\n\n<br/>\n\n\n{text} http://www.example.com"), options, Tally())
    assert got["text"].to_pylist() == [f"{text}\n\n\n{text}"]


def test_a_language_that_the_model_is_not_sure_of_is_left_out():
    sure, never = (Options(languages=("en",), min_language_probability=share) for share in (0.5, 1.0))
    assert clean(table(GOOD), sure, Tally())["removed"].to_pylist() == [None]
    assert clean(table("maybe ok data"), never, Tally())["removed"].to_pylist() == ["language"]


def test_counts_say_what_each_step_removed():
    tally = Tally()
    clean(table(GOOD, "short", GOOD + "\nAdvertisement", "Advertisement"), ENGLISH, tally)
    assert tally.counts == {
        "rule web_en/advertisement": 2, "bytes web_en/advertisement": 26, "rule empty": 1, "rule web_en/words": 1, "bytes web_en/words": 5,
        "language en": 2, "rule language": 0, "bytes language": 0,
    }  # fmt: skip


PIECES = st.sampled_from(
    [
        GOOD, "Advertisement", "a1@b.com", "Tel: 415-555-2671", "x", "", "Wow!!!!!!", "Home > News",
        "今天天气很好，我们去公园散步。" * 5, "\n",
        "特价包邮", "【广告】", "Der Hund und die Katze sind im Garten.", "404 not found", "the of and to " * 20, "<br/>", "★★★★★★",
    ]
)  # fmt: skip
DOCUMENT = st.lists(PIECES, max_size=5).map("\n".join).map(str.strip)


@settings(deadline=None, max_examples=60)
@given(st.lists(DOCUMENT, max_size=14), st.lists(st.integers(0, 14), max_size=4))
def test_any_cut_into_tables_gives_the_same_rows_and_the_same_counts(texts, cuts):
    options = Options(rules=("web_en", "chinese"), mask=("email", "phone"), languages=("en", "zh"))
    whole, parts, merged = table(*texts), [], Tally()
    expected_tally = Tally()
    expected = clean(whole, options, expected_tally)
    cuts = sorted({0, len(texts), *(cut for cut in cuts if cut < len(texts))})
    for start, end in zip(cuts, cuts[1:], strict=False):
        tally = Tally()
        parts.append(clean(whole[start:end], options, tally))
        merged.merge(tally)
    assert pa.concat_tables([expected[:0], *parts]).combine_chunks().equals(expected.combine_chunks())
    if texts:
        assert merged.to_json() == expected_tally.to_json()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(rules=("web_en", "Web_eng")), r"--rules=Web_eng: not known; there are chinese, .*; did you mean web_en\?$"),
        (Options(rules=("zzz",)), "--rules=zzz: not known; there are chinese, code, web_en$"),
        (Options(mask=("mail",)), rf"--mask=mail: not known; there are {', '.join(sorted(MASKS))}; did you mean email\?$"),
        (Options(languages=("english",)), "--languages=english: not known; there are codes of ISO 639-1 such as en, zh, de$"),
        (Options(languages=("eng",)), r"--languages=eng: not known; there are codes .*; did you mean en\?$"),
        (Options(min_language_probability=1.5), r"min_language_probability: found 1.5, must be between 0 and 1"),
    ],
)
def test_mistakes_in_options_are_named_before_any_work(options, message):
    (line,) = problems(options)
    assert re.match(message, line) and "\n" not in line


def test_good_options_have_no_problems():
    assert problems(ENGLISH) == []
