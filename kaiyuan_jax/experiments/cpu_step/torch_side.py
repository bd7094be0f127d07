"""Our decoder and step in eager PyTorch, run by another interpreter than ours: python torch_side.py SHARED_FOLDER THREADS

A file of its own that imports nothing of ours: torch is at hand for other Python versions only. The model is written as a PyTorch user
would: one Linear a matrix, torch's own RMSNorm, scaled-dot-product attention, cross-entropy and fused AdamW. It starts from the weights
and reads the batch in SHARED_FOLDER/start.npz, so that its losses can be compared with ours.

Prints one JSON line when it is ready, then one for every line "N" on its input: N steps, their seconds, CPU seconds and last loss.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.Module):
    def __init__(self, gain, epsilon):
        super().__init__()
        self.gain, self.epsilon = nn.Parameter(torch.tensor(gain)), epsilon

    def forward(self, x):
        return F.rms_norm(x, self.gain.shape, self.gain, self.epsilon)


class Matrix(nn.Module):
    """x [..., inputs] -> x weight [..., outputs], stored as [outputs, inputs], as nn.Linear does."""

    def __init__(self, weight, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight.reshape(inputs, -1).T.copy()))

    def forward(self, x):
        return F.linear(x, self.weight)


class Layer(nn.Module):
    def __init__(self, attention, feedforward, model):
        super().__init__()
        D, F_, H, C = (model[name] for name in ("width", "feedforward", "heads", "head_size"))
        self.head_size, norm = C, lambda gain: Norm(gain, model["norm_epsilon"])
        self.query, self.key, self.value = (Matrix(attention[name], D) for name in ("query_DHC", "key_DKC", "value_DKC"))
        self.out = Matrix(attention["out_HCD"], H * C)
        self.gate, self.up, self.down = (
            Matrix(feedforward["gate_DF"], D),
            Matrix(feedforward["up_DF"], D),
            Matrix(feedforward["down_FD"], F_),
        )
        self.query_norm, self.key_norm = norm(attention["query_norm_C"]), norm(attention["key_norm_C"])
        self.before, self.after = norm(attention["norm_D"]), norm(attention["post_norm_D"])
        self.before_feedforward, self.after_feedforward = norm(feedforward["norm_D"]), norm(feedforward["post_norm_D"])

    def forward(self, x, cos, sin):
        heads = lambda y: y.unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # noqa: E731
        normed = self.before(x)
        q, k, v = heads(self.query(normed)), heads(self.key(normed)), heads(self.value(normed))
        q, k = rotate(self.query_norm(q), cos, sin), rotate(self.key_norm(k), cos, sin)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.after(self.out(a.transpose(1, 2).flatten(2)))
        normed = self.before_feedforward(x)
        return x + self.after_feedforward(self.down(F.silu(self.gate(normed)) * self.up(normed)))


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Decoder(nn.Module):
    def __init__(self, arrays, model, length):
        super().__init__()

        def part(name, n):
            """{stem_DIMS: array} of one layer, from layers/name/stem_NDIMS."""
            found = {path.split("/")[2]: value[n] for path, value in arrays.items() if path.startswith(f"layers/{name}/")}
            return {"_N".join(path.rsplit("_N", 1)).replace("_N", "_"): value for path, value in found.items()}

        self.softcap = model["logit_softcap"]
        self.embedding = nn.Embedding.from_pretrained(torch.tensor(arrays["embedding_VD"]), freeze=False)
        self.layers = nn.ModuleList(Layer(part("attention", n), part("feedforward", n), model) for n in range(model["layers"]))
        self.norm, self.head = Norm(arrays["norm_D"], model["norm_epsilon"]), Matrix(arrays["head_DV"], model["width"])
        half = torch.arange(0, model["head_size"], 2, dtype=torch.float32) / model["head_size"]
        angle = torch.arange(length, dtype=torch.float32)[:, None] * model["rope_base"] ** -half
        self.cos, self.sin = angle.cos(), angle.sin()

    def forward(self, inputs, targets):
        x = self.embedding(inputs)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = self.softcap * torch.tanh(self.head(self.norm(x)) / self.softcap)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main(folder: str, threads: int) -> None:
    torch.set_num_threads(threads)
    settings = json.loads((Path(folder) / "settings.json").read_text())
    start, optimizer = dict(np.load(Path(folder) / "start.npz", allow_pickle=False)), settings["optimizer"]
    inputs, targets = (torch.tensor(start.pop(name), dtype=torch.long) for name in ("inputs", "targets"))
    model = Decoder(start, settings["model"], inputs.shape[1])
    plain = [value for name, value in model.named_parameters() if value.dim() < 2 or name.startswith(("embedding", "head"))]
    decayed = [value for value in model.parameters() if not any(value is other for other in plain)]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": optimizer["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
        lr=settings["rate"],
        betas=(optimizer["beta1"], optimizer["beta2"]),
        eps=optimizer["epsilon"],
        fused=True,
    )

    def step():
        loss = model(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), optimizer["clip_norm"])
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        return loss.item()

    losses = [step() for _ in range(settings["warm_up"])]
    count = sum(value.numel() for value in model.parameters())
    print(json.dumps({"losses": losses, "parameters": count, "version": f"torch {torch.__version__}"}), flush=True)
    for line in sys.stdin:
        seconds, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            loss = step()
        print(json.dumps({"seconds": time.perf_counter() - seconds, "cpu": time.process_time() - cpu, "loss": loss}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
