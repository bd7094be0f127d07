"""PCMind-2.1-Kaiyuan-2B in five phases (arXiv 2512.07612); `TABLE` is the mixture of the released data configurations, row by row.

Published: the 28-layer shape, the vocabulary, sequence length and batch, which share of each corpus enters each phase and how often,
the columns that sort them, the order inside phases, the rates 5e-3 / 3e-3 / 6e-4, the average of the last 8 checkpoints 400 steps
apart, 2.2T tokens in all, and caps by domain. Ours, because the paper does not give them: soft-cap value, initialisation, norm epsilon,
AdamW's settings, warm-up length, an abrupt step between the two plateaus, 1-sqrt as the final decay, equal averaging weights, which
domain a source counts for, and the sizes marked so.

Sizes have three grades. `inferred`: from comments in the released configurations. `public`: what the makers of a data set say of the
set as released, with their tokenizer. `ours`: unknown; chosen so that the five phases add up to 2.2T. The comments put
FineWeb-Edu-Chinese at up to 430B, which cannot be all that was read: the phases would add up to 2.7T, 40% of the first Chinese. Whether
phase 1 reads all of that corpus is unclear in what was released; the table and its exposures take it so.

The stores are not on a laptop: `launch/plan.py --config=configs/kaiyuan_2b.py` plans with these sizes. A quality column is what
`launch/prepare_data.py --quality_field` takes. The paper ranks documents, a plan ranks token mass.
"""

from typing import NamedTuple

from kaiyuan_jax import config as c

BILLION = 1_000_000_000
LENGTH, ROWS = 4096, 2048  # tokens a row, rows a step
WARMUP = 1000  # steps; ours


class Cell(NamedTuple):
    kind: str
    amount: float


class Size(NamedTuple):
    billions: float
    grade: str


def top(share):  # the best by the row's quality column
    return Cell("top", share)


def rand(share):  # a random choice
    return Cell("rand", share)


def x(passes):  # everything, so often
    return Cell("x", passes)


def inferred(billions):
    return Size(billions, "inferred")


def public(billions):
    return Size(billions, "public")


def ours(billions):
    return Size(billions, "ours")


OPENHERMES = "fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob"
EN, ZH, CODE, MATH, OTHER, SFT = "english", "chinese", "code", "math", "other", "sft"
__ = None  # absent

# 29 rows in the paper's table and 30 here: one of its rows holds two sources, dolmino's FLAN and peS2o.
# Sizes are billions of tokens after de-duplication; a row without a quality column is read at random.
# fmt: off
TABLE = (
    # source                quality column                     domain size           phase 1    2          3          4          5
    ("dclm",                OPENHERMES,                        EN,    inferred(610), x(1),      top(.40),  top(.10),  top(.06),  top(.03)),
    ("fineweb_edu_chinese", "score",                           ZH,    ours(94),      x(1),      top(.20),  top(.12),  top(.10),  top(.05)),
    ("fineweb_edu",         "metadata.score",                  EN,    inferred(190), __,        x(1),      top(.50),  top(.30),  top(.10)),
    ("finepdfs_en_top5",    "fineweb-edu-classifier",          EN,    inferred(55),  __,        __,        x(1),      top(.60),  top(.30)),
    ("starcoder",           "max_stars_count",                 CODE,  inferred(190), rand(.10), top(.10),  top(.05),  top(.04),  top(.01)),
    ("llm360_math",         "",                                MATH,  ours(20),      rand(.30), __,        __,        rand(.20), rand(.10)),
    ("finewiki_zh",         "",                                ZH,    ours(1.5),     __,        x(1),      x(2),      x(2),      x(2.5)),
    ("finewiki_en",         "",                                EN,    ours(8),       __,        x(1),      x(2),      x(2),      x(1.5)),
    ("baidu_baike",         "",                                ZH,    ours(3),       __,        __,        x(1),      x(2),      x(1.5)),
    ("un_zh_en",            "",                                OTHER, ours(1),       __,        __,        x(1),      __,        rand(.5)),
    ("arxiv",               "",                                EN,    ours(16),      __,        x(1),      rand(.6),  rand(.8),  rand(.4)),
    ("cosmopedia_v2",       "",                                EN,    public(28),    __,        x(1),      rand(.2),  rand(.4),  rand(.1)),
    ("dolmino_flan",        "",                                EN,    public(17),    __,        rand(.10), __,        __,        __),
    ("dolmino_pes2o",       "",                                EN,    public(58.6),  __,        rand(.05), __,        __,        __),
    ("finemath_4plus",      "score",                           MATH,  public(9.6),   __,        x(1),      top(.6),   top(.8),   top(.4)),
    ("megamath_web_pro",    "math_score",                      MATH,  public(15.1),  __,        x(1),      top(.6),   top(.8),   top(.4)),
    ("openwebmath",         "meta.extraction_info.math_score", MATH,  public(14.7),  __,        x(1),      top(.4),   top(.9),   top(.6)),
    ("megamath_text_code",  "",                                MATH,  public(50.2),  __,        rand(.5),  __,        __,        __),
    ("automathtext",        "lm_q1q2_score",                   MATH,  ours(8),       __,        __,        top(.4),   x(1),      top(.6)),
    ("swallowmath_v2",      "",                                MATH,  public(32),    __,        __,        rand(.4),  x(1),      rand(.6)),
    ("stackexchange",       "",                                EN,    ours(12),      __,        x(1),      rand(.4),  rand(.6),  rand(.3)),
    ("swallowcode_v2",      "score",                           CODE,  public(49.8),  __,        __,        top(.4),   top(.9),   top(.4)),
    ("python_edu",          "score",                           CODE,  public(4),     __,        __,        top(.5),   x(1),      top(.6)),
    ("algebraic_stack",     "max_stars_count",                 CODE,  public(11),    __,        __,        __,        __,        top(.6)),
    ("stack_v2_smol",       "",                                CODE,  ours(16),      __,        __,        __,        __,        rand(.2)),
    ("zh_dedup_top30",      "pac_score",                       ZH,    ours(60),      __,        __,        __,        rand(.10), top(.05)),
    ("sft_downstream",      "",                                SFT,   ours(.1),      __,        __,        __,        x(10),     x(30)),
    ("jiuzhang3",           "",                                MATH,  ours(4),       __,        __,        __,        x(2),      x(2)),
    ("tulu3_sft",           "",                                SFT,   ours(.6),      __,        __,        __,        __,        x(7)),
    ("slimorca",            "",                                SFT,   ours(.5),      __,        __,        __,        __,        x(2)),
)
# fmt: on

# Stores of a corpus that was cut to its best part by quality before it was tokenised. (Stack-v2-smol was cut too, to the files of the
# fifth of its repositories with most stars; that is no quantile of its text.)
PRECUT = {"finepdfs_en_top5": 0.05, "zh_dedup_top30": 0.30}
# Public sizes, in the order of the table: the SmolLM corpus; OLMo 2 (2501.00656) for both dolmino parts; FineMath (2502.02737); MegaMath
# (2504.02807); OpenWebMath (2310.06786); MegaMath; the cards of SwallowMath-v2 and SwallowCode-v2; the SmolLM corpus; Llemma (2310.10631).
# Those of dolmino, MegaMath and python-edu were not looked up again: check them before relying on them.

# "Stability caps" of every phase.
LIMITS = (
    c.DomainLimit(domain=EN, at_least=0.3),
    c.DomainLimit(domain=ZH, at_most=0.3),
    c.DomainLimit(domain=CODE, at_most=0.3),
    c.DomainLimit(domain=MATH, at_most=0.3),
)
SHUFFLED = 2  # phases before the curriculum: shuffled as a whole


def use(source: str, quality: str, cell: Cell, number: int) -> c.Use:
    """A cell in the terms of a plan. From the third phase on, what has a score and was not drawn at random is read in ascending order."""
    ascending = number >= SHUFFLED and quality and cell.kind != "rand"
    window = (round(1 - cell.amount, 6), 1.0) if cell.kind == "top" else (0.0, 1.0)
    passes = 1.0 if cell.kind == "top" else float(cell.amount)
    return c.Use(source=source, window=window, passes=passes, order="ascending" if ascending else "uniform")


def phase(number: int) -> c.Phase:
    return c.Phase(
        name=f"phase{number + 1}",
        order="uniform" if number < SHUFFLED else "ascending",
        uses=[use(name, quality, cells[number], number) for name, quality, _, _, *cells in TABLE if cells[number]],
    )


def sources() -> list[c.Source]:
    return [
        c.Source(
            name=name,
            path=f"stores/kaiyuan/{name}/train",
            domain=domain,
            quality=quality or "none",
            precut=PRECUT.get(name, 1.0),
            planned_tokens=round(size.billions * BILLION),
            planned_from=size.grade,
        )
        for name, quality, domain, size, *_ in TABLE
    ]


def billions(phase: c.Phase) -> float:
    """Tokens of a phase."""
    sizes = {name: size.billions for name, _, _, size, *_ in TABLE}
    return sum(sizes[use.source] * (use.window[1] - use.window[0]) * use.passes for use in phase.uses)


def schedule(steps: list[float], warmup: int) -> c.Schedule:
    """5e-3 in phase 1, 3e-3 in phases 2 to 4, a decay to 6e-4 in phase 5; `steps` of each phase, the warm-up taken from the first."""
    rates = [(5e-3, 5e-3), (3e-3, 3e-3), (3e-3, 3e-3), (3e-3, 3e-3), (3e-3, 6e-4)]
    steps = [steps[0] - warmup, *steps[1:]]  # pieces share the steps after warm-up
    pieces = [c.Piece(fraction=part / sum(steps), begin=a, end=b, shape="sqrt") for part, (a, b) in zip(steps, rates, strict=True)]
    return c.Schedule(kind="piecewise", peak=5e-3, end=6e-4, warmup=warmup, pieces=pieces)


def get_config() -> c.Experiment:
    phases = [phase(number) for number in range(5)]
    return c.Experiment(
        name="kaiyuan_2b",
        model=c.Model(layers=28, width=2048, feedforward=6144, heads=16, kv_heads=8, head_size=128, vocabulary=151_936, remat="full"),
        data=c.Data(sources=sources(), phases=phases, domain_limits=list(LIMITS), sequence_length=LENGTH, batch_size=ROWS),
        schedule=schedule([billions(part) * BILLION / (ROWS * LENGTH) for part in phases], WARMUP),
        precision=c.Precision(compute="bfloat16"),
        mesh=c.Mesh(data=1, fsdp=-1),
        checkpoint=c.Checkpoint(every=400, keep=8),
        averaging=c.Averaging(kind="sma", last=8),
        evaluation=c.Evaluation(every=2000),
    )
