"""What transformers computes of the models of cases.py: python tests/parity/transformers_outputs.py FOLDER, in the parity environment.

Adds FOLDER/<case>/outputs: logits, loss and the gradient of every tensor in float32, and 64 greedy tokens. Nothing of the project is
imported here. A model that does not load without a missing, unexpected or misshapen tensor is an error, and so is a tokenizer that
gives other tokens than ours.
"""

import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

NEW = 64  # tokens
MARGIN = 3e-4  # between the two likeliest tokens of every greedy step, so that no rounding decides


def outputs(folder: pathlib.Path) -> dict:
    inputs = load_file(folder / "inputs")
    options = dict(dtype=torch.float32, attn_implementation="eager", trust_remote_code=False, use_safetensors=True)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    troubles = {key: sorted(value) for key, value in info.items() if value}
    if troubles:
        sys.exit(f"error: {folder}: transformers loads it with {troubles}")
    model.eval()
    tokens_BL, prompt_BL = inputs["tokens_BL"].long(), inputs["prompt_BL"].long()
    result = model(tokens_BL, labels=tokens_BL)
    result.loss.backward()
    made = {"logits_BLV": result.logits.detach(), "loss": result.loss.detach().reshape(1)}
    made |= {f"gradient.{name}": parameter.grad for name, parameter in model.named_parameters()}
    with torch.no_grad():
        chosen = model.generate(
            prompt_BL,
            attention_mask=torch.ones_like(prompt_BL),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            use_cache=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
    best = torch.stack(chosen.logits).topk(2, dim=-1).values
    margin = float((best[..., 0] - best[..., 1]).min())
    if margin < MARGIN:
        sys.exit(f"error: {folder}: two tokens within {margin:.1e} of each other in a greedy step; take another seed in cases.py")
    print(f"{folder.name}: {type(model).__name__}, loss {result.loss.item():.6f}, smallest greedy margin {margin:.4f}")
    return made | {"greedy_BL": chosen.sequences[:, prompt_BL.shape[1] :].to(torch.int32)}


def check_tokenizer(folder: pathlib.Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for text, wanted in json.loads((folder / "tokens.json").read_text(encoding="utf-8")).items():
        if tokenizer(text).input_ids != wanted:
            sys.exit(f"error: {folder}: transformers makes {tokenizer(text).input_ids} of {text!r}, must be {wanted}")


def main(target: pathlib.Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    check_tokenizer(target / "tokenizer")
    for folder in sorted(path.parent for path in target.glob("*/inputs")):
        save_file({name: value.contiguous().clone() for name, value in outputs(folder).items()}, folder / "outputs", versions)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
