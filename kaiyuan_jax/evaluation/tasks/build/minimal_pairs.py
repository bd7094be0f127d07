"""Minimal pairs: two endings of an English sentence of which grammar allows one.

Every template is drawn with both answers right about equally often (is/are, a/an, himself/herself), so a model that knows only how common
words are is right half the time. Words are common ones. Levels are by how far apart the words lie that have to agree:

    level 1   neighbours: these books, a pear, the book is, larger than
    level 2   words between them that would agree as well: the books near the tables are; yesterday ... walked; neither ... nor
    level 3   words between them that would not agree: the books near the table are; the boys that saw Mary hurt themselves
"""

from collections.abc import Iterator

import numpy as np

from kaiyuan_jax.evaluation.tasks.files import Item

LEVELS = {1: "neighbouring words agree", 2: "agreement over words that agree too", 3: "agreement over words that do not"}
TRIES = 10  # draws for each candidate; below some thousands that is enough
THINGS = "book table chair door window car tree house letter picture boat stone lamp wall road flower bottle garden bridge ship".split()
PEOPLE = "boy girl teacher doctor student farmer king friend neighbour worker writer driver".split()
VOWELS = "apple egg island office engine answer idea orange uncle animal army hour".split()
WOMEN, MEN = "Mary Anna Sarah Jane Alice Helen Emma Laura".split(), "John Peter Paul David Henry Thomas James Robert".split()
VERBS = [("see", "saw"), ("know", "knew"), ("help", "helped"), ("like", "liked"), ("follow", "followed"), ("remember", "remembered")]
ACTS = [("walks", "walked"), ("plays", "played"), ("works", "worked"), ("writes", "wrote"), ("runs", "ran"), ("sings", "sang")]
HARM = "hurt saw helped washed blamed taught dressed praised".split()
NEAR = "near behind beside under above by".split()
QUALITIES = "old new small large red good bad clean heavy light".split()
GREATER = [("larger", "large"), ("older", "old"), ("smaller", "small"), ("heavier", "heavy"), ("newer", "new"), ("stronger", "strong")]


def minimal_pairs(random: np.random.Generator, count: int) -> Iterator[Item]:
    """At most `count` candidates of every level, each sentence once; the templates of a level in turn."""
    for level, templates in ((1, NEIGHBOURS), (2, AGREEING), (3, DISAGREEING)):
        seen: set = set()
        for draw in range(TRIES * count):
            template = templates[draw % len(templates)]
            context, right, wrong = template(random, bool(random.integers(2)))
            if (context, right) not in seen and len(seen) < count:
                seen.add((context, right))
                place = int(random.integers(2))
                choices = (wrong, right) if place else (right, wrong)
                yield Item(f"{template.__name__.strip('_')}/{len(seen)}/{level}", context, choices, place, level)


def _one(random, words):
    return words[int(random.integers(len(words)))]


def _two(random, words):
    first, second = random.choice(len(words), 2, replace=False)
    return words[int(first)], words[int(second)]


def _answer(first: bool, one: str, other: str) -> tuple[str, str]:
    return (one, other) if first else (other, one)


def _plural(noun: str, many: bool) -> str:
    return noun + "s" * many


def _determiner(random, many):
    who, noun = _one(random, WOMEN + MEN), _one(random, THINGS)
    determiner = _one(random, ["these", "those", "many", "several"] if many else ["this", "that", "every", "one"])
    return f"{who} {_one(random, VERBS)[1]} {determiner}", *_answer(many, f" {noun}s.", f" {noun}.")


def _article(random, vowel):
    who, (before_vowel, before_consonant) = _one(random, WOMEN + MEN), (_one(random, VOWELS), _one(random, THINGS))
    return f"{who} {_one(random, VERBS)[1]} {'an' if vowel else 'a'}", *_answer(vowel, f" {before_vowel}.", f" {before_consonant}.")


def _verb_beside(random, many):
    quality = _one(random, QUALITIES)
    return f"The {_plural(_one(random, THINGS), many)}", *_answer(many, f" are {quality}.", f" is {quality}.")


def _comparison(random, greater):
    (one, other), degree = _two(random, THINGS), _one(random, GREATER)
    said = degree[0] if greater else f"as {degree[1]}"
    return f"The {one} is {said}", *_answer(greater, f" than the {other}.", f" as the {other}.")


def _verb_over(random, many, same):
    one, other = _two(random, THINGS)
    between = _plural(other, many == same)
    return (
        f"The {_plural(one, many)} {_one(random, NEAR)} the {between}",
        *_answer(many, f" are {(quality := _one(random, QUALITIES))}.", f" is {quality}."),
    )


def _verb_over_agreeing(random, many):
    return _verb_over(random, many, True)


def _verb_over_disagreeing(random, many):
    return _verb_over(random, many, False)


def _verb_over_clause(random, many):
    one, other = _two(random, PEOPLE)
    verb = _one(random, VERBS)[1]
    answer = _answer(many, f" are {(quality := _one(random, QUALITIES))}.", f" is {quality}.")
    return f"The {_plural(one, many)} that the {_plural(other, not many)} {verb}", *answer


def _reflexive(random, woman):
    who = _one(random, WOMEN if woman else MEN)
    return f"{who} {_one(random, HARM)}", *_answer(woman, " herself.", " himself.")


def _reflexive_number(random, many):
    who = _plural(_one(random, PEOPLE), True) if many else _one(random, MEN)
    return f"{'The ' * many}{who} {_one(random, HARM)}", *_answer(many, " themselves.", " himself.")


def _reflexive_over(random, woman):
    one, other = (_one(random, WOMEN), _one(random, MEN))[:: 1 if woman else -1]
    return f"{one}, who {_one(random, VERBS)[1]} {other}, {_one(random, HARM)}", *_answer(woman, " herself.", " himself.")


def _reflexive_number_over(random, many):
    one, other = _one(random, PEOPLE), _one(random, MEN)
    if many:
        return f"The {one}s that {_one(random, VERBS)[1]} {other} {_one(random, HARM)}", " themselves.", " himself."
    return f"{other}, who {_one(random, VERBS)[1]} the {one}s, {_one(random, HARM)}", " himself.", " themselves."


def _tense(random, past):
    act, where = _one(random, ACTS), _one(random, THINGS)
    when = _one(random, ["Yesterday", "Last year", "Long ago"] if past else ["Nowadays", "These days", "At present"])
    return f"{when} the {_one(random, PEOPLE)}", *_answer(past, f" {act[1]} near the {where}.", f" {act[0]} near the {where}.")


def _coordination(random, neither):
    one, other = _two(random, PEOPLE)
    said = "neither" if neither else "either"
    return f"It was {said} the {one}", *_answer(neither, f" nor the {other}.", f" or the {other}.")


NEIGHBOURS = (_determiner, _article, _verb_beside, _comparison)
AGREEING = (_verb_over_agreeing, _reflexive, _reflexive_number, _tense, _coordination)
DISAGREEING = (_verb_over_disagreeing, _verb_over_clause, _reflexive_over, _reflexive_number_over)
