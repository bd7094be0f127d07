"""The same model and step in PyTorch as a careful user would write it: transformers' Qwen3, torch.compile, fused AdamW, best attention.

Runs in a process without JAX. Same shape without sandwich norm and soft-cap (Qwen3 has neither), same tokens, S = 4096, cross-entropy from
logits that the compiler may fuse. "fp32 weights" is what we do: float32 weights and moments, products in bfloat16 (autocast). "bf16
weights" holds weights, gradients and moments in bfloat16: less memory, other semantics, not what we compare with.
Attention is torch's scaled_dot_product_attention with whichever of cuDNN and FlashAttention was faster here.
"""

import contextlib
import statistics
import time

from kaiyuan_jax.experiments.accelerator import shapes
from kaiyuan_jax.experiments.accelerator.child import Job
from kaiyuan_jax.models import flops

LENGTH = 4096
FIRST = 8  # rows that are tried first; what it takes says how many fit
BATCHES = (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32)
ROOM = 0.95
VARIANTS = (  # weights, activations recomputed layer by layer
    ("float32", False),
    ("float32", True),
    ("bfloat16", False),
)


def measure(job: Job) -> None:
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    job.record(what="device", kind=kind, torch=torch.__version__, transformers=transformers.__version__)
    torch.set_float32_matmul_precision("high")  # what stays in float32 may use the tensor cores
    shape = shapes.model("tiny" if job.tiny else "2b", plain=True)
    backend = _fastest_attention(job, shape, device)
    for weights, checkpointing in VARIANTS[:1] if job.tiny else VARIANTS:
        row = dict(
            model="tiny" if job.tiny else "2b",
            shape="Qwen3",
            weights=weights,
            recompute="layers" if checkpointing else "none",
            attention=backend,
        )
        job.attempt(lambda w=weights, c=checkpointing: _measure(job, shape, w, c, device, kind), needs=0 if job.tiny else 45, **row)


def _fastest_attention(job: Job, shape, device: str) -> str:
    """Times forward and backward of the two kernels, leaves only the faster one enabled, and returns its name."""
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if device == "cpu":
        return "cpu"
    heads = ((shape.heads, True), (shape.kv_heads, True), (shape.kv_heads, True))
    q, k, v = (torch.randn(4, n, LENGTH, shape.head_size, device=device, dtype=torch.bfloat16, requires_grad=grad) for n, grad in heads)
    found = {}
    for name, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):

        def both(backend=backend):
            with sdpa_kernel(backend):
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            out.backward(out.detach())

        def work(name=name, both=both):
            found[name] = _seconds(both, device)
            return {"ms": found[name] * 1e3}

        job.attempt(work, what="attention, forward and backward", attention=name)
    best = min(found, key=found.get, default="flash")
    torch.backends.cuda.enable_cudnn_sdp(best == "cudnn")
    torch.backends.cuda.enable_flash_sdp(best == "flash")
    torch.backends.cuda.enable_math_sdp(False)  # it would hold all scores
    return best


def _measure(job: Job, shape, weights: str, checkpointing: bool, device: str, kind: str) -> dict:
    """The first batch, and then, if time is left, the largest that its memory says will fit."""
    length = 64 if job.tiny else LENGTH
    if device == "cpu":
        return _run(shape, weights, checkpointing, 2, length, device, kind)
    import torch

    limit, rows, result = ROOM * torch.cuda.get_device_properties(0).total_memory / 2**30, FIRST, None
    while result is None:
        try:
            result = _run(shape, weights, checkpointing, rows, length, device, kind)
        except torch.OutOfMemoryError:
            if rows == 1 or job.left() < 30:
                raise
            rows //= 2
    # everything that does not grow with rows: weights, gradients and two moments
    fixed = 4 * flops.parameters(shape) * (4 if weights == "float32" else 2) / 2**30
    per_row = max(1e-3, (result["peak_gib"] - fixed) / rows)
    wanted = max((batch for batch in BATCHES if fixed + batch * per_row <= limit), default=rows)
    if wanted > rows and job.left() > 1.5 * result["compile_seconds"] + 20:
        with contextlib.suppress(torch.OutOfMemoryError):
            larger = _run(shape, weights, checkpointing, wanted, length, device, kind)
            return max(result, larger, key=lambda found: found["tokens_per_second"])
    return result


def _run(shape, weights: str, checkpointing: bool, rows: int, length: int, device: str, kind: str) -> dict:
    import gc

    import torch

    gc.collect()
    torch._dynamo.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = build(shape, getattr(torch, weights), checkpointing, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(shape.vocabulary, (rows, length + 1), generator=generator).to(device)
    loss = compiled(lambda inputs, targets: objective(model, inputs, targets), device)
    mixed = torch.autocast(device, torch.bfloat16, enabled=weights == "float32")

    def update():
        with mixed:
            value = loss(tokens[:, :-1], tokens[:, 1:])
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.detach()

    begin = time.perf_counter()
    objectives = [float(update()) for _ in range(2)]
    compile_seconds = time.perf_counter() - begin
    seconds = _seconds(update, device, rounds=3, calls=2)
    objectives.append(float(update()))
    rate = rows * length / seconds
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return {
        "batch": rows,
        "tokens_per_second": rate,
        **shapes.utilisation(shape, length, rate, kind, full_remat=checkpointing),
        "ms": seconds * 1e3,
        "peak_gib": peak,
        "compile_seconds": compile_seconds,
        "objective": objectives[0],
        "objective_last": objectives[-1],
    }


def build(shape, dtype, checkpointing: bool, device: str):
    """transformers' Qwen3 of this shape with random weights, in training mode."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    described = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feedforward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        tie_word_embeddings=shape.tied,
        rms_norm_eps=shape.norm_epsilon,
        initializer_range=shape.init_std,
        max_position_embeddings=LENGTH,
        attn_implementation="sdpa",
        use_cache=False,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen3ForCausalLM(described)
    finally:
        torch.set_default_dtype(before)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def compiled(function, device: str):
    """torch.compile for fixed shapes; on a CPU, where only the code is tried, without a C++ compiler."""
    import torch

    return torch.compile(function, dynamic=False, backend="inductor" if device == "cuda" else "aot_eager")


def objective(model, inputs, targets):
    """Mean cross-entropy. The mapping says that there is no mask beside causality, so that attention kernels without masks may run."""
    import torch.nn.functional as F

    hidden = model.model(input_ids=inputs, attention_mask={"full_attention": None}, use_cache=False).last_hidden_state
    return F.cross_entropy(model.lm_head(hidden).flatten(0, 1).float(), targets.flatten())


def _seconds(call, device: str, rounds: int = 5, calls: int = 5) -> float:
    """Median seconds of one call over rounds, by CUDA events; by the clock on a CPU."""
    import torch

    call()
    found = []
    for _ in range(rounds):
        if device == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            for _ in range(calls):
                call()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) / 1e3 / calls)
        else:
            start = time.perf_counter()
            for _ in range(calls):
                call()
            found.append((time.perf_counter() - start) / calls)
    return statistics.median(found)
