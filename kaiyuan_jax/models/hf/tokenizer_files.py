"""The files beside the tensors: tokenizer.json unchanged, tokenizer_config.json, and generation_config.json.

What a tokenizer does is all in tokenizer.json; the other file names the class that reads it and the token that ends a text.
"""

import json
import shutil
from pathlib import Path

from kaiyuan_jax import json_text
from kaiyuan_jax.config import UserError

TOKENIZER, TOKENIZER_CONFIG, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"


def copy(source: Path, target: Path) -> None:
    """tokenizer.json and, where it lies beside it, tokenizer_config.json, from one folder to another; byte for byte. Raises UserError."""
    shutil.copyfile(source / TOKENIZER, target / TOKENIZER)
    if (source / TOKENIZER_CONFIG).is_file():
        try:
            given = json_text.read(source / TOKENIZER_CONFIG)
        except json_text.JSONError as error:
            raise UserError(f"{source / TOKENIZER_CONFIG}: not JSON ({error}); download it again, or remove it") from None
        if isinstance(given, dict) and "auto_map" not in given:  # a class of its own, which would be code to run
            shutil.copyfile(source / TOKENIZER_CONFIG, target / TOKENIZER_CONFIG)


def beginning(folder: Path) -> str:
    """The token that tokenizer_config.json says to stand before every text (bos_token); empty where it names none, or there is no file."""
    if not (folder / TOKENIZER_CONFIG).is_file():
        return ""
    try:
        facts = json_text.read(folder / TOKENIZER_CONFIG)
    except json_text.JSONError as error:
        raise UserError(f"{folder / TOKENIZER_CONFIG}: not JSON ({error}); download it again, or remove it") from None
    token = facts.get("bos_token") if isinstance(facts, dict) else None
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def write(source: Path, target: Path, *, token: str, end: int, length: int) -> None:
    """All three; tokenizer_config.json is made where the source has none.

    token, end: the token that ends a document, and its id; length: tokens of the longest sequence.
    """
    copy(source, target)
    if not (target / TOKENIZER_CONFIG).exists():
        facts = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": token,
            "pad_token": token,
            "model_max_length": length,
            "clean_up_tokenization_spaces": False,
        }
        _json(target / TOKENIZER_CONFIG, facts)
    _json(target / GENERATION, {"eos_token_id": end, "pad_token_id": end})


def _json(path: Path, facts: dict) -> None:
    path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
