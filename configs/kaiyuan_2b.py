"""PCMind-2.1-Kaiyuan-2B in five phases (arXiv 2512.07612; the mixtures are those of the released data configurations).

Published: the 28-layer shape, the vocabulary, sequence length and batch, which share of each corpus enters each phase and how often,
the order inside phases, the rates 5e-3 / 3e-3 / 6e-4, the average of the last 8 checkpoints 400 steps apart, 2.2T tokens in all.
Ours, because the paper does not give them: soft-cap value, initialisation, norm epsilon, AdamW's settings, warm-up length, an abrupt
step between the two plateaus, 1-sqrt as the final decay, equal averaging weights, and every corpus size marked "ours" below
(chosen so that the phases add up to 2.2T tokens; the others are inferred from comments in the released configurations).

The stores are not on a laptop: `launch/plan.py --config=configs/kaiyuan_2b.py` plans with the sizes below.
"""

from kaiyuan_jax import config as c

BILLION = 1_000_000_000
LENGTH, ROWS = 4096, 2048  # tokens a row, rows a step
WARMUP = 1000  # steps; ours

# Tokens after deduplication, in billions.
SIZES = {
    "dclm": 610,  # inferred
    "fineweb_edu_chinese": 206,  # ours; at most 430 inferred
    "fineweb_edu": 190,  # inferred
    "finepdfs_en_top5": 55,  # inferred: 5 % of 1,100
    "starcoder": 190,  # inferred
    "llm360_math": 20,  # everything from here on is ours
    "finewiki_zh": 1.5,
    "finewiki_en": 8,
    "baidu_baike": 3,
    "un_zh_en": 1,
    "arxiv": 16,
    "cosmopedia_v2": 16,
    "dolmino_flan": 17,
    "dolmino_pes2o": 50,
    "finemath_4plus": 9,
    "megamath_web_pro": 12,
    "openwebmath": 13,
    "megamath_text_code": 12,
    "automathtext": 8,
    "swallowmath_v2": 14,
    "stackexchange": 12,
    "swallowcode_v2": 14,
    "python_edu": 4,
    "algebraic_stack": 10,
    "stack_v2_smol": 16,
    "zh_dedup_top30": 60,
    "sft_downstream": 0.1,
    "jiuzhang3": 1,
    "tulu3_sft": 0.6,
    "slimorca": 0.5,
}


def top(source: str, share: float) -> c.Use:
    return c.Use(source=source, window=(1 - share, 1.0), order="ascending")


def random(source: str, passes: float) -> c.Use:
    return c.Use(source=source, passes=passes, order="uniform")


def phases() -> list[c.Phase]:
    first = [random("dclm", 1), random("fineweb_edu_chinese", 1), random("starcoder", 0.1), random("llm360_math", 0.3)]
    second = [
        top("dclm", 0.4), top("fineweb_edu_chinese", 0.2), random("fineweb_edu", 1), top("starcoder", 0.1),
        random("finewiki_zh", 1), random("finewiki_en", 1), random("arxiv", 1), random("cosmopedia_v2", 1),
        random("dolmino_flan", 0.1), random("dolmino_pes2o", 0.05), random("finemath_4plus", 1), random("megamath_web_pro", 1),
        random("openwebmath", 1), random("megamath_text_code", 0.5), random("stackexchange", 1),
    ]  # fmt: skip
    for use in second:  # phase 2 is shuffled as a whole
        use.order = "uniform"
    third = [
        top("dclm", 0.1), top("fineweb_edu_chinese", 0.12), top("fineweb_edu", 0.5), top("finepdfs_en_top5", 1.0), top("starcoder", 0.05),
        random("finewiki_zh", 2), random("finewiki_en", 2), random("baidu_baike", 1), random("un_zh_en", 1), random("arxiv", 0.6),
        random("cosmopedia_v2", 0.2), top("finemath_4plus", 0.6), top("megamath_web_pro", 0.6), top("openwebmath", 0.4),
        top("automathtext", 0.4), random("swallowmath_v2", 0.4), random("stackexchange", 0.4), top("swallowcode_v2", 0.4),
        top("python_edu", 0.5),
    ]  # fmt: skip
    fourth = [
        top("dclm", 0.06), top("fineweb_edu_chinese", 0.1), top("fineweb_edu", 0.3), top("finepdfs_en_top5", 0.6), top("starcoder", 0.04),
        random("llm360_math", 0.2), random("finewiki_zh", 2), random("finewiki_en", 2), random("baidu_baike", 2), random("arxiv", 0.8),
        random("cosmopedia_v2", 0.4), top("finemath_4plus", 0.8), top("megamath_web_pro", 0.8), top("openwebmath", 0.9),
        top("automathtext", 1.0), random("swallowmath_v2", 1), random("stackexchange", 0.6), top("swallowcode_v2", 0.9),
        top("python_edu", 1.0), random("zh_dedup_top30", 0.1), random("sft_downstream", 10), random("jiuzhang3", 2),
    ]  # fmt: skip
    fifth = [
        top("dclm", 0.03), top("fineweb_edu_chinese", 0.05), top("fineweb_edu", 0.1), top("finepdfs_en_top5", 0.3), top("starcoder", 0.01),
        random("llm360_math", 0.1), random("finewiki_zh", 2.5), random("finewiki_en", 1.5), random("baidu_baike", 1.5),
        random("un_zh_en", 0.5), random("arxiv", 0.4), random("cosmopedia_v2", 0.1), top("finemath_4plus", 0.4),
        top("megamath_web_pro", 0.4), top("openwebmath", 0.6), top("automathtext", 0.6), random("swallowmath_v2", 0.6),
        random("stackexchange", 0.3), top("swallowcode_v2", 0.4), top("python_edu", 0.6), top("algebraic_stack", 0.6),
        random("stack_v2_smol", 0.2), top("zh_dedup_top30", 0.05), random("sft_downstream", 30), random("jiuzhang3", 2),
        random("tulu3_sft", 7), random("slimorca", 2),
    ]  # fmt: skip
    return [
        c.Phase(name=f"phase{i + 1}", uses=uses, order="uniform" if i < 2 else "ascending")
        for i, uses in enumerate([first, second, third, fourth, fifth])
    ]


def tokens(phase: c.Phase) -> float:
    return sum(SIZES[use.source] * (use.window[1] - use.window[0]) * use.passes for use in phase.uses)


def get_config() -> c.Experiment:
    parts = phases()
    steps = [tokens(phase) * BILLION / (ROWS * LENGTH) for phase in parts]
    steps[0] -= WARMUP  # pieces share the steps after warm-up, which is phase 1's
    rates = [(5e-3, 5e-3), (3e-3, 3e-3), (3e-3, 3e-3), (3e-3, 3e-3), (3e-3, 6e-4)]
    return c.Experiment(
        name="kaiyuan_2b",
        model=c.Model(layers=28, width=2048, feedforward=6144, heads=16, kv_heads=8, head_size=128, vocabulary=151_936, remat="full"),
        data=c.Data(
            sources=[
                c.Source(name=name, path=f"stores/kaiyuan/{name}/train", planned_tokens=int(size * BILLION)) for name, size in SIZES.items()
            ],
            phases=parts,
            sequence_length=LENGTH,
            batch_size=ROWS,
        ),
        schedule=c.Schedule(
            kind="piecewise",
            peak=5e-3,
            end=6e-4,
            warmup=WARMUP,
            pieces=[
                c.Piece(fraction=part / sum(steps), begin=begin, end=end, shape="sqrt")
                for part, (begin, end) in zip(steps, rates, strict=True)
            ],
        ),
        precision=c.Precision(compute="bfloat16"),
        mesh=c.Mesh(data=1, fsdp=-1),
        checkpoint=c.Checkpoint(every=400, keep=8),
        averaging=c.Averaging(kind="sma", last=8),
        evaluation=c.Evaluation(every=2000),
    )
