"""Credentials are seen wherever they stand, and nothing else is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan_jax import config, config_check, secrets

CANARY = "c4n4ry" + "Zq7x"
SECRETS = [
    f"https://user:{CANARY}@host/store",
    f"s3://{CANARY}:{CANARY}@bucket/run",
    f"s3:/{CANARY}:{CANARY}@bucket/run",  # as pathlib writes it
    f"https://{CANARY}@huggingface.co/datasets/a",
    f"https://bucket.s3.amazonaws.com/x.parquet?X-Amz-Credential={CANARY}&X-Amz-Signature={CANARY}",
    f"https://storage.googleapis.com/b/x?GoogleAccessId=me&Signature={CANARY}&Expires=1",
    f"https://host/x?access_token={CANARY}#part",
    f"AWS_SECRET_ACCESS_KEY={CANARY}",
    f"--token={CANARY}",
    f"{{'password': '{CANARY}'}}",
    f"Authorization: Bearer {CANARY}{CANARY}",
    f"hf_{CANARY}{CANARY}",
    f"ghp_{CANARY}{CANARY}",
    f"sk-proj-{CANARY}{CANARY}",
    f"xoxb-12-{CANARY}",
    f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----",
]
PLAIN = [
    "gs://bucket/runs/a", "s3://bucket/a=b/c", "hf://datasets/owner/name@main/data/*.parquet",
    "ssh://git@host/repo",
    "runs/a@2/checkpoints", "runs/sk-learn-baseline-of-the-year", "stores/hf_fineweb_edu_chinese_v2/train", "runs/xoxb-ablation-study",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "models--Qwen--Qwen3-1.7B-Base",
    "--tokens=128 --sample_tokens=48 --config.data.verify_tokens=1000000000 --tokenizer=stores/a/tokenizer.json",
    "special token: <|endoftext|>",
    "https://host/x?page=2&monkey=12345678", "token 17 is 300, outside the vocabulary", "a key of the table", "keyed hash of the text",
]  # fmt: skip


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_found_and_taken_out(text):
    assert secrets.found(text)
    assert CANARY not in secrets.redact(f"before {text} after") and secrets.REDACTED in secrets.redact(text)


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text):
    assert secrets.found(text) == "" and secrets.redact(text) == text


@given(st.text(), st.sampled_from(SECRETS), st.text())
def test_taking_out_twice_is_taking_out_once(before, text, after):
    once = secrets.redact(before + text + after)
    assert secrets.redact(once) == once


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MY_PASSWORD", "wandb_api_key"])
def test_the_value_of_a_secret_variable_is_taken_out_wherever_it_stands(monkeypatch, name):
    monkeypatch.setenv(name, "plain words of mine")
    assert secrets.redact("he said plain words of mine.") == "he said [redacted]."
    assert secrets.found("he said plain words of mine.") == f"the value of {name}"
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "never-ever")
    assert secrets.redact("never-ever") == "never-ever"


@pytest.mark.parametrize("text", SECRETS[:-1])
def test_a_config_that_holds_one_is_refused_without_saying_it(text):
    source = config.Source(name="a", path=text)
    experiment = config.Experiment(data=config.Data(sources=[source], phases=[config.Phase(uses=[config.Use(source="a")])]))
    with pytest.raises(config.ConfigError, match=r"config.data.sources\[0\].path: found .*which holds .*by the environment") as error:
        config_check.check(experiment)
    assert CANARY not in str(error.value)
