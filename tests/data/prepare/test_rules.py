"""Rules cut out what they say, count it, and leave running text, code and mathematics alone."""

import json.decoder
import pathlib
import re
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare import rules
from kaiyuan_jax.data.prepare.measures import Measures
from kaiyuan_jax.data.prepare.normalise import normalise_text
from kaiyuan_jax.data.prepare.rule_sets import CHINESE, CODE, RULE_SETS, WEB_EN
from kaiyuan_jax.data.prepare.rules import Bound, Edit, Missing, RuleSet, Unwanted
from kaiyuan_jax.data.prepare.tally import Tally

LATEX = r"""
\begin{theorem}[Cauchy--Schwarz] Let $V$ be an inner product space over $\mathbb{R}$ or $\mathbb{C}$. For all $x, y \in V$ we have
\[ |\langle x, y \rangle|^2 \le \langle x, x \rangle \cdot \langle y, y \rangle, \]
with equality if and only if $x$ and $y$ are linearly dependent.
\end{theorem}
\begin{proof}
If $y = 0$ there is nothing to prove. Otherwise put $\lambda = \langle x, y\rangle / \langle y, y\rangle$ and expand
\begin{align*}
0 &\le \| x - \lambda y \|^2 = \|x\|^2 - 2\,\Re(\bar\lambda \langle x, y\rangle) + |\lambda|^2 \|y\|^2 \\
  &= \|x\|^2 - \frac{|\langle x, y\rangle|^2}{\|y\|^2} .
\end{align*}
Multiplying by $\|y\|^2$ gives the claim. For example $2^{30} = 1073741824$, $13!! = 135135$, $\pi \approx 3.14159265358979$,
and $a < b$ with $c > d$ or (c) 1 + 1 = 2; in numbers 415 - 555 - 2671 is not a telephone, nor is 13958643712 that of anybody.
\end{proof}
""".strip()
CHINESE_PROSE = """
我冒了严寒，回到相隔二千余里，别了二十余年的故乡去。时候既然是深冬；渐近故乡时，天气又阴晦了，冷风吹进船舱中，呜呜的响，从蓬隙向外一望，苍黄的天底下，远近横着几个萧索的荒村，没有一些活气。我的心禁不住悲凉起来了。
阿！这不是我二十年来时时记得的故乡？……

设函数 f(x) 在区间 [a, b] 上连续，若 a<b 且 f(a)<0<f(b)，则存在 c 使得 f(c)=0。△ABC 中，∠A + ∠B + ∠C = 180°。
2 的 30 次方等于 1073741824，圆周率约为 3.14159265358979，全国人口超过 1400000000 人；20 世纪 90 年代的编辑和记者都用笔写字。
第3页讲的是导数，首页、电话和地址这些词出现在句子里时也应当保留。

    for i in range(10):
        print(i, W@x.T)  # 打印结果
""".strip()


def source(module):
    """Its text without the lines with rights and addresses, which are meant to go."""
    lines = pathlib.Path(module.__file__).read_text().splitlines()
    return normalise_text("\n".join(line for line in lines if not re.search("Copyright|http|@python", line)))


REAL = {
    "python": source(textwrap),
    "more python": source(json.decoder),
    "latex": LATEX,
    "chinese": CHINESE_PROSE,
}


def array(*texts):
    return pa.array(texts, pa.large_string())


def edited(rule_set, text):
    return rules.edit(array(text), rule_set, Tally()).to_pylist()[0]


def dropped(rule_set, *texts):
    removed = np.full(len(texts), None, object)
    rules.drop(Measures(array(*texts)), rule_set, removed, Tally())
    return list(removed)


@pytest.mark.parametrize("rule_set", RULE_SETS.values(), ids=lambda rule_set: rule_set.name)
@pytest.mark.parametrize("text", REAL.values(), ids=REAL)
def test_edits_leave_real_code_mathematics_and_prose_unchanged(rule_set, text):
    assert edited(rule_set, text) == text


def test_real_samples_of_a_kind_are_kept_by_the_set_of_that_kind():
    assert dropped(CODE, REAL["python"], REAL["more python"]) == [None, None]
    assert dropped(WEB_EN, LATEX) == [None]
    assert dropped(CHINESE, CHINESE_PROSE) == [None]


CUT = {
    ("web_en", "pagination"): ["Page 2 of 17", "« Older posts", "Next page »", "previous | next"],
    ("web_en", "navigation"): ["Home > Products > Shoes", "Skip to main content", "Back to top", "Read more...", "Log in | Register"],
    ("web_en", "advertisement"): ["ADVERTISEMENT", "Advertisement - Continue Reading Below", "Sponsored content", "Add to cart"],
    ("web_en", "sharing"): ["Share this:", "Share on Facebook", "Follow us on Twitter @somebody", "Facebook | Twitter | Email"],
    ("web_en", "subscription"): ["Subscribe to our weekly newsletter today!", "Leave a comment", "12 Comments"],
    ("web_en", "policy"): [
        "This website uses cookies to improve your experience.",
        "Privacy Policy | Terms",
        "Please enable JavaScript to go on.",
    ],
    ("web_en", "copyright"): ["Copyright © 2019 Example Inc.", "© 2020 The Authors", "Example Inc. All rights reserved."],
    ("web_en", "contact"): ["Tel: +44 20 7946 0958", "Email: info@example.com", "Phone: (415) 555-2671, Fax: 415-555-2672"],
    ("chinese", "html"): ['<div class="a">', "</p>", "<br/>", "<!-- ad -->"],
    ("chinese", "addresses"): ["http://www.example.com/a?b=1", "www.example.com.cn"],
    ("chinese", "mail"): ["zhang.san@example.com"],
    ("chinese", "pagination"): ["上一页 1 2 3 下一页"[:3], "共 12 页", "下一篇：怎样学习数学", "（未完待续）"],
    ("chinese", "navigation"): ["首页 > 新闻 > 国内", "您的位置：首页 新闻", "返回顶部"],
    ("chinese", "more"): ["点击查看更多", "【阅读全文】"],
    ("chinese", "copyright"): ["版权所有 某某公司", "未经授权不得转载本文内容", "转载请注明出处"],
    ("chinese", "registration"): ["京ICP备12345678号-1"],
    ("chinese", "news source"): ["来源：某某日报", "责任编辑：张三", "浏览次数：1234"],
    ("chinese", "bylines"): ["（本报记者 李四）"],
    ("chinese", "advertisement"): ["扫描下方二维码领取资料", "关注我们的微信公众号", "立即购买，限时优惠"],
    ("chinese", "label of advertisement"): ["【广告】"],
    ("chinese", "sharing"): ["分享到：微博 微信", "点赞 收藏 转发"],
    ("chinese", "contacts"): ["咨询电话：010-12345678", "QQ：123456789", "联系人：王先生"],
    ("chinese", "postal address"): ["公司地址：某某市某某路1号"],
    ("chinese", "date of page"): ["2020-05-01 12:30", "2019年3月2日"],
}


@pytest.mark.parametrize("place", CUT, ids="/".join)
def test_each_edit_cuts_its_examples_and_nothing_beside_them(place):
    rule_set, name = place
    rule = next(rule for rule in RULE_SETS[rule_set].edits if rule.name == name)
    for example in CUT[place]:
        text = f"这里是前一行。First line.\n{example}\n这里是后一行。Last line."
        assert edited(RuleSet("x", (rule,), ()), text).replace("\n\n", "\n") == "这里是前一行。First line.\n这里是后一行。Last line.", (
            example
        )


def test_repeated_characters_are_cut_to_three_and_numbers_behind_a_label_are_cut_out():
    assert edited(CHINESE, "好啊！！！！！！哈哈哈哈哈哈，他说……") == "好啊！！！哈哈哈，他说……"
    assert edited(CHINESE, "订单编号是 1234567890123，请查收。") == "订单编号是 ，请查收。"
    assert edited(WEB_EN, "Wow!!!!!! Really????? ---------- ====== .....") == "Wow!!! Really??? ---------- ====== ....."


GOOD = "The committee said on Monday that it would review the plan and publish what it had found before the end of the year. " * 1
PARAGRAPHS = "\n".join(
    f"{GOOD.strip()} Note {number}: the plan of year {number} is to be read with that of the next." for number in range(5)
)
DROPPED = {
    ("web_en", "placeholder"): PARAGRAPHS + " Lorem ipsum dolor sit amet.",
    ("web_en", "no page"): "404 Not Found\n" + PARAGRAPHS,
    ("web_en", "words"): GOOD,
    ("web_en", "word length"): "antidisestablishmentarianism of the incomprehensibilities " * 30,
    ("web_en", "words without letters"): "the 1000 of 2000 300 " * 50,
    ("web_en", "stop words"): "red green blue " * 50,
    ("web_en", "bullets"): "\n".join(f"- this item {number} of the list and those which follow it have something else to say" for number in range(20)),
    ("web_en", "ellipses"): "\n".join(f"the beginning of article {number} that goes on with ..." for number in range(20)),
    ("web_en", "repeated lines"): (GOOD + "\n") * 5,
    ("web_en", "short lines"): "\n".join(f"list of things {chr(97 + n) * 5}" for n in range(25)),
    ("web_en", "encoded data"): PARAGRAPHS + " " + "iVBORw0KGgoAAAANSUhEUg" * 20,
    ("code", "short"): "x = 1",
    ("code", "generated"): "# Generated by the protocol buffer compiler.  DO NOT EDIT!\n" + REAL["python"],
    ("code", "longest line"): "a = 1\n" * 10 + "var b=function(a){return a};" * 50,
    ("code", "mean line"): "\n".join(f"const value{n} = [" + "name, " * 20 + f"x{n}];" for n in range(5)),
    ("code", "letters"): "\n".join(f"{{{n}}}, [], (), {{}}, [{n}]; // ..........." for n in range(20)),
    ("code", "digits"): "\n".join(f"value_{n}=12345678{n}" for n in range(50)),
    ("code", "encoded data"): 'image = """\n' + "R0lGODlhAQABAIAAAAAAAP" * 20 + '\n"""\n' + "def show():\n    return image\n" * 2,
    ("code", "table of bytes"): "static const char *name = \"abcdefgh\";\n" * 3 + "\n".join("    0xab, 0xcd, 0xef, 0xaf, 0xbe," for n in range(80)),
    ("code", "escaped data"): "\n".join(f"def name_{n}(argument): return argument + {n}" for n in range(30)) + '\ns = "' + "\\xaf" * 210 + '"',
    ("code", "repeated lines"): "    return compute(argument)\n" * 30,
    ("code", "markup"): '<?xml version="1.0"?>\n' + "\n".join(f"<name_{chr(97 + n)}>value</name_{chr(97 + n)}>" for n in range(20)),
    ("chinese", "short"): "今天天气很好。",
    ("chinese", "han"): CHINESE_PROSE[:60] + PARAGRAPHS,
    ("chinese", "repeated lines"): "这是一行反复出现的文字，没有别的内容。\n" * 9,
    ("chinese", "sentences"): "红黄蓝绿青紫黑白灰" * 9,
}  # fmt: skip


@pytest.mark.parametrize("place", DROPPED, ids="/".join)
def test_each_drop_says_which_rule_removed_its_example(place):
    rule_set, name = place
    assert dropped(RULE_SETS[rule_set], DROPPED[place]) == [f"{rule_set}/{name}"]


def test_a_share_of_texts_with_terms_of_advertising_is_kept_by_their_hash():
    texts = [
        f"第{number}号商品特价，全国包邮，欢迎选购，质量保证，售后无忧，数量有限，先到先得，欢迎广大新老客户前来选购咨询。"
        for number in range(2000)
    ]
    kept = [verdict is None for verdict in dropped(CHINESE, *texts)]
    assert 0.03 < sum(kept) / len(kept) < 0.07
    assert [verdict is None for verdict in dropped(CHINESE, *reversed(texts))] == kept[::-1]


def test_a_rule_counts_texts_and_bytes_and_shows_what_it_removed():
    tally = Tally()
    rules.edit(array("one\nAdvertisement\ntwo", "three", "Advertisement"), WEB_EN, tally)
    assert tally.counts == {"rule web_en/advertisement": 2, "bytes web_en/advertisement": 27}
    assert sorted(tally.examples["rule web_en/advertisement"]) == ["[[Advertisement]]", "one\n[[Advertisement\n]]two"]


def test_the_first_drop_that_hits_is_the_one_that_counts():
    tally, removed = Tally(), np.array([None, "before/it"], object)
    rules.drop(Measures(array("abc", "abc")), RuleSet("x", (), (Unwanted("a", "a", ""), Missing("z", "z", ""))), removed, tally)
    assert list(removed) == ["x/a", "before/it"]
    assert tally.counts == {"rule x/a": 1, "bytes x/a": 3}


@pytest.mark.parametrize("rule_set", RULE_SETS.values(), ids=lambda rule_set: rule_set.name)
def test_every_rule_has_a_name_of_its_own_a_reason_and_what_it_needs(rule_set):
    every = (*rule_set.edits, *rule_set.drops)
    assert len({rule.name for rule in every}) == len(every)
    assert all(rule.reason for rule in every)
    for rule in every:
        if isinstance(rule, Bound):
            assert isinstance(getattr(Measures(array("a")), rule.measure), np.ndarray)
        else:
            pc.match_substring_regex(array("a"), rule.pattern)


@pytest.mark.parametrize("rule_set", [WEB_EN, CHINESE], ids=lambda rule_set: rule_set.name)
def test_the_cheap_pattern_finds_every_text_that_its_edit_changes(rule_set):
    examples = [example for place, many in CUT.items() if place[0] == rule_set.name for example in many]
    for rule in (rule for rule in rule_set.edits if rule.look_for):
        plain = RuleSet("x", (Edit(rule.name, rule.pattern, rule.reason, rule.replacement),), ())
        texts = array(*(f"a\n{example}\nb" for example in examples))
        assert rules.edit(texts, plain, Tally()).equals(rules.edit(texts, RuleSet("x", (rule,), ()), Tally())), rule.name


WORDS = st.text(st.sampled_from("ab1 \n.-é中！"), max_size=60)


@settings(deadline=None, max_examples=200)
@given(st.lists(WORDS, max_size=6), st.integers(0, 2))
def test_measures_are_those_of_plain_python(texts, left_out):
    texts = ["".join(text) for text in texts]
    got = Measures(array("left out", "x", *texts)[left_out:])
    texts = ["left out", "x", *texts][left_out:]
    for row, text in enumerate(texts):
        lines, words, data = [line for line in text.split("\n") if line], text.split(), text.encode()
        visible = [byte for byte in data if byte not in b" \t\n"]
        letters = sum(byte >= 128 or chr(byte).isalpha() for byte in visible) / max(1, len(visible))
        expected = {
            "bytes": len(data), "characters": len(text), "words": len(words), "letters": letters,
            "digits": sum(chr(byte).isdigit() for byte in visible if byte < 128) / max(1, len(visible)),
            "han": 3 * text.count("中") / max(1, len(visible)),
            "word_length": sum(map(len, words)) / max(1, len(words)),
            "words_with_letter": sum(any(c.isalpha() or c > "\x7f" for c in word) for word in words) / max(1, len(words)),
            "longest_line": max((len(line.encode()) for line in lines), default=0),
            "mean_line": len(data) / max(1, len(lines)),
            "short_lines": sum(len(line.encode()) < 30 for line in lines) / max(1, len(lines)),
            "sentence_lines": sum(line[-1] == "." for line in lines) / max(1, len(lines)),
            "ellipsis_lines": sum(line.endswith("...") for line in lines) / max(1, len(lines)),
            "bullet_lines": sum(line.lstrip(" ").startswith("- ") for line in lines) / max(1, len(lines)),
            "repeated_lines": _repeated(lines) / max(1, len(data)),
        }  # fmt: skip
        for name, value in expected.items():
            assert getattr(got, name)[row] == pytest.approx(value), (name, text)


def _repeated(lines):
    seen, repeated = set(), 0
    for line in lines:
        repeated += len(line.encode()) * (line in seen and len(line.encode()) >= 4)
        seen.add(line)
    return repeated
