"""Masking finds what has a mark of its own and leaves code, mathematics, versions and dates alone."""

import textwrap
from pathlib import Path

import pyarrow as pa
import pytest

from kaiyuan_jax.data.prepare.normalise import normalise_text
from kaiyuan_jax.data.prepare.personal_data import MASKS, mask
from kaiyuan_jax.data.prepare.tally import Tally

EVERY = tuple(MASKS)
LETTERS = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1eF3hJ5kL7n"  # 40


def masked(text, kinds=EVERY):
    return mask(pa.array([text], pa.large_string()), kinds, Tally()).to_pylist()[0]


FOUND = {
    "email": ["john.doe+list@mail.example.co.uk", "a_b@example.com", "info@university.edu", "x1@qq.com"],
    "phone": [
        "+44 20 7946 0958",
        "+1 (415) 555-2671",
        "+8613812345678",
        "(415) 555-2671",
        "415-555-2671",
        "138 0013 8000",
        "138-0013-8000",
    ],
    "key": [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + LETTERS[:36],
        "github_pat_" + LETTERS,
        "sk-" + LETTERS,
        "sk-proj-" + LETTERS,
        "xoxb-123456789012-" + LETTERS,
        "hf_" + LETTERS[:34],
        "AIza" + LETTERS[:35],
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
    ],
    "ip": ["203.0.113.7", "192.168.1.10", "85.214.132.117"],
}


@pytest.mark.parametrize(("kind", "example"), [(kind, example) for kind, examples in FOUND.items() for example in examples])
@pytest.mark.parametrize("frame", ["{}", "Write to {}.", "here ({}), there", 'value = "{}"', "请联系 {} 或者", "<{}>", "a\n{}\nb"])
def test_data_with_a_mark_is_masked_wherever_it_stands(kind, example, frame):
    assert masked(frame.format(example)) == frame.format(f"<{kind}>")


def test_neighbours_are_all_masked():
    assert masked("a1@b.com c1@d.com,e1@f.com;g1@h.com") == "<email> <email>,<email>;<email>"


def test_a_number_behind_a_word_for_telephone_is_masked():
    assert masked("电话：13800138000，手机 15912345678") == "电话：<phone>，手机 <phone>"
    assert masked("Tel: 010-12345678") == "Tel: <phone>"


STAYS = [
    "@property\ndef f(self): return self.W@self.x.T + a@b",
    "y = W@x.mT; z = A@B.inv(); q = Q@K.to(device); r = x@y.at[0].set(1)",
    "pip install package@1.2.3, lodash@4.17.21, @scope/package, user@localhost, git@github.com:owner/repository.git",
    "@app.route('/a')\n@pytest.mark.parametrize('x', [1])",
    "version 1.2.3.4, section 3.14.15.92, from 2020-01-01 to 2021-12-31 12:30:45, ISBN 978-0-306-40615-7",
    "13958643712 = 13 * 2**30, pi = 3.14159265358979, 2^30 = 1073741824, 1 + 415 - 555 - 2671, 1,234,567,890",
    "timestamps 1577836800, 1577836800000; x = +1234567; (123) 456; 100-200-300; f(+12, 34)",
    "等于13958643712，人口1400000000人，2的30次方是1073741824。",
    "class sk-spinner-bounce-animation, hf_model_name, npm_config_registry, eyJ begins a token; uuid 123e4567-e89b-12d3-a456-426614174000",
    "bind to 127.0.0.1, 0.0.0.0 or 10.0.0.1; the mask is 1.1.1.1",
    r"$x^{123-456}$, $(123) \times 10^{-3}$, $a_{1}@b$, \label{eq:1}, matrix[1:2]@v",
]


@pytest.mark.parametrize("text", STAYS)
def test_code_mathematics_versions_and_dates_stay(text):
    assert masked(text) == text


def test_real_code_without_addresses_stays():
    text = normalise_text("\n".join(line for line in Path(textwrap.__file__).read_text().splitlines() if "@python" not in line))
    assert masked(text) == text


def test_only_the_kinds_asked_for_are_masked_and_masking_twice_changes_nothing():
    text = "Tel: +44 20 7946 0958, mail a1@b.com"
    assert masked(text, ("email",)) == "Tel: +44 20 7946 0958, mail <email>"
    assert masked(masked(text)) == masked(text)


def test_replacements_are_counted_and_examples_show_no_personal_data():
    tally = Tally()
    mask(pa.array(["a1@b.com and c1@d.com", "none", "e1@f.com"], pa.large_string()), EVERY, tally)
    assert tally.counts == {"mask email": 3}
    assert sorted(tally.examples["mask email"]) == ["<email>", "<email> and <email>"]
