"""A model of ours as one that EleutherAI's lm-evaluation-harness asks (its `LM`), in this process and without torch.

The harness makes prompts of a task's documents and sums up the answers; here questions become tokens and are answered. They become the
tokens that the harness's own Hugging Face backend gives the exported model: context and continuation are encoded together and cut where the
context's tokens end, blanks at the context's end go to the continuation, special tokens that a text spells are read as such, a text without
context is read after the prefix token, long contexts lose their beginning, and rolling windows are the harness's own. So scores agree to
rounding (tests/evaluation/harness/test_parity.py); in bfloat16 that backend also rounds the log-probabilities, which are float32 here.

Every answer is kept as soon as its batch is done (`answers`), and equal questions are asked once.
"""

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Sequence

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from tokenizers import Tokenizer
from tqdm import tqdm

from kaiyuan_jax.config import UserError
from kaiyuan_jax.evaluation.harness import likelihood, texts
from kaiyuan_jax.evaluation.harness.answers import Answers, key
from kaiyuan_jax.kernels.placement import ANYWHERE, Placement

NEW_TOKENS = 256  # where a task does not say how many, as in the harness's own backends
KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p"}  # what a task may say of its texts


@dataclasses.dataclass(frozen=True)
class Writing:
    """How the texts of a question are written."""

    stops: tuple[str, ...]
    new_tokens: int
    temperature: float
    top_p: float


class Adapter(TemplateLM):
    def __init__(
        self,
        graphdef,
        params,
        tokenizer: Tokenizer,
        answers: Answers,
        *,
        length: int,
        eod: int,
        prefix: int,
        batch_tokens: int,
        place: Placement = ANYWHERE,
    ):
        """graphdef, params: as `models.decoder.split` gives them; length: the most tokens the model reads; eod: id that ends a text.

        prefix: id that stands before a text without context: the model's beginning-of-sequence token, or `eod` where it has none.
        """
        super().__init__()
        self._graphdef, self._params, self._texts, self._answers = graphdef, params, tokenizer, answers
        self._length, self._eod, self._prefix = length, eod, prefix
        self._batch_tokens, self._place = batch_tokens, place
        self._compute = likelihood.log_probabilities(graphdef, place)
        self.asked = self.found = self.cut = 0  # questions, those already answered, those whose context lost its beginning
        tokenizer.encode_special_tokens = False
        tokenizer.no_truncation()
        tokenizer.no_padding()

    @property
    def eot_token_id(self) -> int:
        return self._eod

    @property
    def prefix_token_id(self) -> int:
        return self._prefix

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
        """Tokens of a text, with those special ones that the tokenizer puts around it, but not a second prefix."""
        prefix = self._texts.decode([self._prefix], skip_special_tokens=False)
        special = not (prefix and string.startswith(prefix)) if add_special_tokens is None else add_special_tokens
        return self._texts.encode(string, add_special_tokens=special).ids

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability in nats, whether greedy decoding writes it) of each request's continuation after its context."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm or not sys.stderr.isatty())

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Log-probability in nats of each request's whole text, read in windows of the model's length."""
        windows, owners = [], []
        for owner, request in enumerate(requests):
            (text,) = request.args
            cut = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text), prefix_token=self._prefix, max_seq_len=self._length, context_len=1
            )
            for context, continuation in map(utils.make_disjoint_window, cut):
                windows.append((None, context, continuation))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (nats, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += nats
        return totals

    def _loglikelihood_tokens(self, requests, **kwargs) -> list[tuple[float, bool]]:
        pairs = []
        for texts_of, context, continuation in requests:
            try:
                pairs.append(likelihood.fit(context, continuation, self._length))
            except ValueError as error:
                shown = f" ({texts_of[1]!r:.60})" if texts_of else ""
                raise UserError(f"--tasks: a continuation{shown} cannot be scored: {error} that the model reads") from None
            self.cut += len(pairs[-1][0]) < len(context)
        keys = [key("likelihood", *pair) for pair in pairs]
        options = dict(length=self._length, batch_tokens=self._batch_tokens, ways=self._place.ways("B"))

        def ask(numbers):
            for batch in likelihood.answer(self._compute, self._params, [pairs[number] for number in numbers], **options):
                yield [(numbers[at], [nats, greedy]) for at, nats, greedy in batch]

        return [(nats, greedy) for nats, greedy in self._answered(keys, ask, "log-likelihoods")]

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each request's context. The same request again draws another text, where texts are drawn."""
        eos, questions, seen = self._texts.decode([self._eod], skip_special_tokens=False), [], {}
        for request in requests:
            context, wanted = request.args
            how = self._writing(wanted, eos, request.task_name)
            ids = self.tok_encode(context) or [self._prefix]
            kept = tuple(ids[-(self._length - how.new_tokens) :])
            self.cut += len(kept) < len(ids)
            repeat = seen[kept, how] = seen.get((kept, how), -1) + 1
            questions.append((kept, how, repeat * (how.temperature > 0)))
        keys = [key("text", ids, *dataclasses.astuple(how), repeat) for ids, how, repeat in questions]

        def ask(numbers):
            for how in dict.fromkeys(questions[number][1] for number in numbers):
                alike = [number for number in numbers if questions[number][1] == how]
                alike.sort(key=lambda number: -len(questions[number][0]))
                while alike:
                    rows = max(1, self._batch_tokens // (len(questions[alike[0]][0]) + how.new_tokens))
                    block, alike = alike[:rows], alike[rows:]
                    yield list(zip(block, self._write([questions[number] for number in block], how), strict=True))

        return self._answered(keys, ask, "texts")

    def _write(self, block: Sequence, how: Writing) -> list[str]:
        return texts.until(
            self._graphdef,
            self._params,
            self._texts,
            [ids for ids, _, _ in block],
            numbers=[draws(ids, repeat) for ids, _, repeat in block],
            window=self._length,
            eod=self._eod,
            place=self._place,
            **dataclasses.asdict(how),
        )

    def _writing(self, wanted: dict, eos: str, task: str | None) -> Writing:
        try:
            said = normalize_gen_kwargs(wanted, NEW_TOKENS)
            temperature = float(said.get("temperature") or 0.0) if said["do_sample"] else 0.0
            top_p = float(said.get("top_p") or 1.0)
        except (TypeError, ValueError) as error:
            raise UserError(f"--tasks: {task} asks for texts with {wanted} ({error}); see the task's file and --gen_kwargs") from None
        if temperature < 0 or not 0 < top_p <= 1:
            raise UserError(
                f"--tasks: {task} asks for temperature {temperature:g} and top_p {top_p:g}; must be at least 0, and above 0 to at most 1"
            )
        unknown = sorted(name for name in said if name not in KNOWN and said[name] is not None)
        if unknown:
            raise UserError(f"--tasks: {task} sets {unknown[0]} for its texts; this adapter knows {', '.join(sorted(KNOWN))}")
        if not 1 <= said["max_gen_toks"] < self._length:
            raise UserError(
                f"--tasks: {task} asks for {said['max_gen_toks']} tokens of text, but the model reads {self._length}, prompt among them; "
                f"ask for fewer with --gen_kwargs=max_gen_toks={self._length // 2}"
            )
        stops = tuple(handle_stop_sequences(list(said["until"]), eos=eos))
        return Writing(stops, said["max_gen_toks"], temperature, top_p)

    def _answered(self, keys: list[bytes], ask: Callable, what: str) -> list:
        """The answer to each key: those that are kept, and the others as `ask` of their numbers yields them, kept batch by batch."""
        known = self._answers.find(keys)
        self.asked, self.found = self.asked + len(keys), self.found + sum(key in known for key in keys)
        waiting = {key: number for number, key in reversed(list(enumerate(keys))) if key not in known}
        with tqdm(total=len(waiting), desc=what, unit="", disable=None) as bar:
            for batch in ask(list(reversed(waiting.values()))):
                kept = {keys[number]: value for number, value in batch}
                self._answers.keep(kept)
                known |= kept
                bar.update(len(kept))
        return [known[key] for key in keys]


def draws(ids: Sequence[int], repeat: int) -> int:
    """The number from which the draws of a text follow: of its prompt and of how many times it was asked before, not of its neighbours."""
    return int.from_bytes(hashlib.blake2b(repr((tuple(ids), repeat)).encode(), digest_size=4).digest(), "big")
