from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_focal.functional import extract_boxed


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        ("no box", None),
        (r"\boxed{5}", "5"),
        (r"so $\boxed{5}$.", "5"),
        (r"\boxed{1} and \boxed{2}, done", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{a} + {b}} }", r"\text{a} + {b}"),
        (r"\boxed{}", ""),
        (r"\boxed{ 5 }", " 5 "),
        ("\\boxed{1\n+2}", "1\n+2"),
        (r"\boxed {5}", "5"),
        ("\\boxed\n {5}", "5"),
        # printed braces are no braces
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\left. x \right\}}", r"\left. x \right\}"),
        (r"\boxed{5\}", None),
        (r"\boxed{a \\}", r"a \\"),
        # nested: the last to open
        (r"\boxed{a = \boxed{b}}", "b"),
        # cut off: None, not the one before
        (r"\boxed{1} \boxed{2", None),
        (r"\boxed{1} \boxed{", None),
        (r"\boxed{\boxed{1}", "1"),
        # no boxes with braces
        (r"\boxed 5", None),
        (r"\fbox{5}", None),
        (r"\boxed{5} is \boxed", "5"),
        (r"\boxed{5} is \boxed 6", "5"),
        (r"\boxedtext{5}", None),
        ("\\boxed{5}\\", "5"),
        ("\\boxed{\\", None),
    ],
)  # fmt: skip
def test_by_hand(text, content):
    assert extract_boxed(text) == content


BALANCED = st.recursive(
    st.text(alphabet="x1 +,$\n", max_size=4) | st.sampled_from([r"\{", r"\}", r"\\", r"\frac"]),
    lambda inner: st.lists(inner, max_size=4).map("".join) | inner.map("{{{}}}".format),
    max_leaves=8,
)


@given(st.text(max_size=30), BALANCED, st.text(alphabet="}x1 $\\.", max_size=20))
def test_whatever_stands_around_it(before, content, after):
    assert extract_boxed(f"{before}\\boxed{{{content}}}{after}") == content


@given(st.text(alphabet="\\boxed{} a", max_size=60))
def test_any_text_gives_something_in_it_or_none(text):
    found = extract_boxed(text)
    assert found is None or f"{{{found}}}" in text


@pytest.mark.parametrize(
    "unit", ["\\boxed{", "\\boxed", "\\boxed ", "{", "}", "\\boxed{}", "\\", "\\boxed{\\", " ", "\\boxed" + " " * 500]
)
def test_takes_linear_time(unit):
    text = unit * (2_000_000 // len(unit))
    start = time.process_time()
    for prefix in ("", "\\boxed{", "\\boxed"):
        extract_boxed(prefix + text)
    assert time.process_time() - start < 10  # quadratic time would take hours
