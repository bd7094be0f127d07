"""What is measured, the most valuable first: when the time is up, what is missing stands at the end."""

import dataclasses

PACKAGE = "kaiyuan_jax.experiments.accelerator"


@dataclasses.dataclass(frozen=True)
class Section:
    name: str
    module: str  # dotted
    seconds: float  # at most
    torch: bool = False  # runs under --torch_python, in a process without JAX
    options: dict = dataclasses.field(default_factory=dict)


SECTIONS = (
    Section("ceilings", f"{PACKAGE}.ceilings", 30),
    Section("step", f"{PACKAGE}.train_step", 120, options=dict(variants="bfloat16")),
    Section("torch_step", f"{PACKAGE}.torch_step", 130, torch=True),
    Section("step_plain", f"{PACKAGE}.train_step", 60, options=dict(variants="plain")),
    Section("step_fp16", f"{PACKAGE}.train_step", 60, options=dict(variants="float16")),
    Section("attention", f"{PACKAGE}.attention_ops", 80),
    Section("cross_entropy", f"{PACKAGE}.cross_entropy_ops", 60),
    Section("torch_ops", f"{PACKAGE}.torch_ops", 60, torch=True),
    Section("decode", f"{PACKAGE}.decode", 45),
    Section("checkpoint", f"{PACKAGE}.checkpoint_stall", 60),
    Section("proxies", f"{PACKAGE}.train_step", 60, options=dict(variants="proxies")),
    Section("norms", f"{PACKAGE}.norms", 30),
)
