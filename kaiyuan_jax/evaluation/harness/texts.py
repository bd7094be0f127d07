"""Text up to a stop string.

A stop string may begin and end inside tokens, so only the decoded text shows it. Texts are therefore written in pieces of 32, 64, 128, ...
tokens: after each piece those that hold a stop string, or have ended, are done, and the others go on as prompts of the next. Prompts are
read again at every piece, which doubling keeps to a few times, and no text is written much further than twice as far as it is wanted.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer

from kaiyuan_jax.evaluation import generate
from kaiyuan_jax.evaluation.harness.likelihood import power_of_two
from kaiyuan_jax.kernels.placement import ANYWHERE, Placement

PIECE = 32  # tokens


def until(
    graphdef,
    params,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    stops: Sequence[str],
    new_tokens: int,
    numbers: Sequence[int],
    window: int,
    eod: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    place: Placement = ANYWHERE,
) -> list[str]:
    """What each prompt goes on to say before the first stop string, the end of the document, or the end of `new_tokens` tokens.

    numbers: of each prompt, from which with the place in the text its draws follow. Ids that the tokenizer does not have may be drawn, and
    are no text. Other arguments and errors as `generate.generate`. All prompts are one batch.
    """
    written: list[list[int]] = [[] for _ in prompts]
    waiting, done, piece = list(range(len(prompts))), 0, PIECE
    while waiting and done < new_tokens:
        count = min(piece, new_tokens - done)
        rows = waiting + waiting[-1:] * (power_of_two(len(waiting)) - len(waiting))  # so that few programs are compiled
        found = generate.generate(
            graphdef,
            params,
            [[*prompts[row], *written[row]] for row in rows],
            new_tokens=count,
            window=window,
            eod=eod,
            vocabulary=len(params["embedding_VD"]),
            temperature=temperature,
            top_p=top_p,
            seed=done,
            numbers=[numbers[row] for row in rows],
            batch_size=len(rows),
            place=place,
        )
        for row, ids in zip(waiting, found, strict=False):
            written[row] += ids
        whole = [row for row, ids in zip(waiting, found, strict=False) if len(ids) == count]
        waiting = [row for row in whole if not any(stop and stop in tokenizer.decode(written[row]) for stop in stops)]
        done, piece = done + count, 2 * piece
    return [before(tokenizer.decode(ids), stops) for ids in written]


def before(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stop strings that it holds; an empty one stops nothing."""
    for stop in stops:
        text = text.split(stop)[0] if stop else text
    return text
