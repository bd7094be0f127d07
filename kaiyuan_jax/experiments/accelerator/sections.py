"""What is measured, the most valuable first: when the time is up, what is missing stands at the end.

Every section has a share of the time, start-up of its process included (about 10 s); shares add to less than nine minutes. What one does
not use falls to the next, so that a section may take all that is left but the shares of those behind it.
"""

import dataclasses

PACKAGE = "kaiyuan_jax.experiments.accelerator"


@dataclasses.dataclass(frozen=True)
class Section:
    name: str
    module: str  # dotted
    seconds: float  # its share
    torch: bool = False  # runs under --torch_python, in a process without JAX
    options: dict = dataclasses.field(default_factory=dict)


SECTIONS = (
    Section("ceilings", f"{PACKAGE}.ceilings", 22),
    Section("step", f"{PACKAGE}.train_step", 104, options=dict(variants="bfloat16")),
    Section("torch_step", f"{PACKAGE}.torch_step", 89, torch=True),
    Section("step_plain", f"{PACKAGE}.train_step", 51, options=dict(variants="plain")),
    Section("step_fp16", f"{PACKAGE}.train_step", 46, options=dict(variants="float16")),
    Section("attention", f"{PACKAGE}.attention_ops", 46),
    Section("cross_entropy", f"{PACKAGE}.cross_entropy_ops", 27),
    Section("torch_ops", f"{PACKAGE}.torch_ops", 28, torch=True),
    Section("decode", f"{PACKAGE}.decode", 25),
    Section("checkpoint", f"{PACKAGE}.checkpoint_stall", 30),
    Section("proxies", f"{PACKAGE}.train_step", 25, options=dict(variants="proxies")),
    Section("norms", f"{PACKAGE}.norms", 12),
    Section("population", f"{PACKAGE}.population", 30),
)
