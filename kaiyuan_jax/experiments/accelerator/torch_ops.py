"""PyTorch's attention and cross-entropy on the shapes of `attention_ops` and `cross_entropy_ops`; a process without JAX.

scaled_dot_product_attention with cuDNN and FlashAttention knows causality alone; documents, soft-cap and window go through
flex_attention, compiled.
"""

from kaiyuan_jax.experiments.accelerator import attention_cases as cases
from kaiyuan_jax.experiments.accelerator.child import Job
from kaiyuan_jax.experiments.accelerator.torch_step import _seconds, compiled


def measure(job: Job) -> None:
    import torch
    from torch.nn.attention import SDPBackend

    device = "cuda" if torch.cuda.is_available() else "cpu"
    job.record(what="device", torch=torch.__version__, kind=torch.cuda.get_device_name() if device == "cuda" else "cpu")
    shape = cases.TINY if job.tiny else (cases.BATCH, cases.LENGTH, cases.HEADS, cases.KV_HEADS, cases.HEAD_SIZE)
    backends = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION} if device == "cuda" else {"math": SDPBackend.MATH}
    for name, backend in backends.items():
        row = dict(case="causal", dtype="bfloat16", implementation=f"torch sdpa: {name}")
        job.attempt(lambda b=backend: _attention(_sdpa(b), cases.CASES[0], shape, device), needs=0, **row)
    for softcap in (0.0, 30.0):
        row = dict(implementation="torch.compile, materialised", softcap=softcap)
        job.attempt(lambda s=softcap: _cross_entropy(s, job.tiny, device), needs=0, **row)
    if device == "cuda":  # on a CPU flex_attention has no backward pass
        for case in cases.CASES:
            row = dict(case=case.name, dtype="bfloat16", implementation="torch flex_attention")
            job.attempt(lambda c=case: _attention(_flex(c, shape), c, shape, device), needs=10, **row)


def _sdpa(backend):
    import torch.nn.functional as F
    from torch.nn.attention import sdpa_kernel

    def attend(q, k, v):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    return attend


def _flex(case: cases.Case, shape: tuple):
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    batch, length, *_ = shape
    segments = torch.tensor(cases.documents(batch, length), device="cuda") if case.documents else None

    def visible(b, h, i, j):
        seen = i >= j
        if case.window:
            seen = seen & (i - j < case.window)
        return seen if segments is None else seen & (segments[b, i] == segments[b, j])

    def cap(score, b, h, i, j):
        return case.softcap * torch.tanh(score / case.softcap)

    mask = create_block_mask(visible, batch if case.documents else None, None, length, length, device="cuda")
    run = compiled(flex_attention, "cuda")
    return lambda q, k, v: run(q, k, v, score_mod=cap if case.softcap else None, block_mask=mask, enable_gqa=True)


def _attention(attend, case: cases.Case, shape: tuple, device: str) -> dict:
    import torch

    B, L, H, K, C = shape
    q, k, v = (torch.randn(B, n, L, C, device=device, dtype=torch.bfloat16, requires_grad=True) for n in (H, K, K))
    g = torch.randn(B, H, L, C, device=device, dtype=torch.bfloat16)

    def forward():
        with torch.no_grad():
            attend(q, k, v)

    def both():
        torch.autograd.grad(attend(q, k, v), (q, k, v), g)

    one, two = _seconds(forward, device), _seconds(both, device)
    return {
        "forward_ms": one * 1e3,
        "both_ms": two * 1e3,
        "forward_tflops": cases.flops(case, B, L, H, C, False) / one / 1e12,
        "both_tflops": cases.flops(case, B, L, H, C, True) / two / 1e12,
    }


def _cross_entropy(softcap: float, tiny: bool, device: str) -> dict:
    """Value and gradients for x and a float32 head; logits in bfloat16, reduced in float32."""
    import torch
    import torch.nn.functional as F

    B, L, D, V = (2, 32, 64, 512) if tiny else (2, 4096, 2048, 151_936)
    x = torch.randn(B * L, D, device=device, dtype=torch.bfloat16, requires_grad=True)
    head = (torch.randn(V, D, device=device) * D**-0.5).requires_grad_()
    targets = torch.randint(V, (B * L,), device=device)

    def loss(x, head):
        logits = F.linear(x, head.to(x.dtype)).float()
        return F.cross_entropy(softcap * torch.tanh(logits / softcap) if softcap else logits, targets)

    run = compiled(loss, device)
    seconds = _seconds(lambda: torch.autograd.grad(run(x, head), (x, head)), device)
    return {"ms": seconds * 1e3, "tflops": 6 * B * L * D * V / seconds / 1e12}
