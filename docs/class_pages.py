"""What the page of a class shows beside its docstring: an example, a picture, and the page of its method.

Examples are taken from `docs/reference/examples.md`, else from the shortest fenced block of the other pages that names the class. The
tests run all of them.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

DOCS = Path(__file__).parent
EXAMPLES = "reference/examples"
LONGEST = 30  # lines of a block that is shown as an example
PICTURES = {
    "FocalReward": ("weights.svg", "Focal weights against saturation, for gamma from 0 to 5"),
    "FocalWeighting": ("weights.svg", "Focal weights against saturation, for gamma from 0 to 5"),
    "CoRewardingI": ("label_free.svg", "Accuracy, share of the vote and entropy over 60 steps, one line a method"),
    "CoRewardingII": ("label_free.svg", "Accuracy, share of the vote and entropy over 60 steps, one line a method"),
    "MajorityVoteReward": ("label_free_fast.svg", "Accuracy, share of the vote and entropy at a rate that collapses"),
    "CollapseWatch": ("label_free_fast.svg", "Accuracy, share of the vote and entropy at a rate that collapses"),
    "WriteReport": ("report.webp", "A report: what happened, and held-out scores before and after"),
    "LogMedia": ("report.webp", "A report: what happened, and held-out scores before and after"),
    "RolloutTable": ("report_rollouts.webp", "Rollouts with their verdicts, in the report"),
}
_FENCE = re.compile(r"^(?P<ticks>`{3,})(?P<language>[\w{}-]*)[^\n]*\n(?P<text>.*?)^(?P=ticks)$", re.DOTALL | re.MULTILINE)
_LEXERS = {"python": "python", "pycon": "pycon", "yaml": "yaml", "sh": "sh", "bash": "sh"}


@cache
def pages() -> dict[str, str]:
    """Text of every page of prose, by its name without ending."""
    found = {
        str(path.relative_to(DOCS).with_suffix("")): path.read_text(encoding="utf-8")
        for path in sorted(DOCS.rglob("*.md"))
        if "_build" not in path.parts
    }
    return {name: text for name, text in found.items() if name not in ("changelog", "reference/configuration")}


def picture_of(name: str) -> tuple[str, str] | None:
    """File under `_static` and alternative text, or None."""
    return PICTURES.get(name)


def method_page_of(name: str) -> str | None:
    """The page under `concepts` whose part before "When to use" names the class first, or None."""
    for page, text in pages().items():
        head = text.split("**When to use")[0]
        if page.startswith("concepts/") and head != text and _defines(name, text):
            return page
    return None


def _defines(name: str, text: str) -> bool:
    return bool(re.search(rf"<!-- arguments: lightning_focal\.rewards\.{name}\b", text))


def example_of(name: str) -> tuple[str, str, str] | None:
    """Language, text and page of an example, or None."""
    own = re.search(rf"^## [^\n]*\b{name}\b[^\n]*\n(.*?)(?=^## |\Z)", pages()[EXAMPLES], re.DOTALL | re.MULTILINE)
    fence = own and _FENCE.search(own[1])
    if fence:
        return _LEXERS[fence["language"]], fence["text"], EXAMPLES
    found = []
    for page, text in pages().items():
        for fence in _FENCE.finditer(text):
            language = _LEXERS.get(fence["language"])
            if language is None or not re.search(rf"\b{name}\b", fence["text"]):
                continue
            shown = fence["text"]
            if language == "sh":
                shown = "".join(
                    line + "\n" for line in shown.splitlines() if re.search(rf"\b{name}\b", line) and line[-1] != "\\"
                )
            if shown and len(shown.splitlines()) <= LONGEST:
                found.append((language == "sh", len(shown), language, shown, page))
    if found:
        return min(found)[2:]
    page = method_page_of(name)
    if page:
        for fence in _FENCE.finditer(pages()[page]):
            if fence["language"] in ("sh", "bash"):
                return "sh", fence["text"], page
    return None
