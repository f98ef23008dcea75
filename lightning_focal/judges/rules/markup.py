"""The markup of a response, read once by a CommonMark parser: what stands in code is neither a heading, a list nor a placeholder."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

__all__ = ["Markup", "read_markup"]


@dataclass
class Markup:
    """What was found outside of code, and the code itself.

    ``headings`` holds levels, underlined ones included; ``bullets`` and ``numbered`` count items that hold something, in lists of any
    depth (lines that start with ``•``, too; numbers of at most three digits). ``placeholders`` are square brackets that hold a name to be
    filled in, ``others`` emphasis, links, images, quotes, inline and indented code. ``fences`` are the closed ones as ``(language, body)``,
    ``code_lines`` first and last line of each fence, counted from 0, the last not included. ``blocks`` are paragraphs, headings, list items
    and table rows without markup; inline code is a run of ``x``.
    """

    headings: list[int] = field(default_factory=list)
    bold: int = 0
    bullets: int = 0
    numbered: int = 0
    tables: int = 0
    placeholders: int = 0
    others: int = 0
    fences: list[tuple[str, str]] = field(default_factory=list)
    code_lines: list[tuple[int, int]] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)


_SIGNS = {
    "table": "|", "code": ("    ", "\t"), "fence": ("```", "~~~"), "blockquote": ">", "hr": "-*_", "list": "-*+.)", "reference": ("]:",),
    "html_block": "<", "heading": "#", "lheading": "-=",
}  # fmt: skip
"""Block rules of CommonMark, and what a text must hold one of for it to apply."""


@cache
def _parser(rules: tuple[str, ...]) -> MarkdownIt:
    from markdown_it import MarkdownIt

    unused = [*(_SIGNS.keys() - set(rules)), "inline", "text_join"]  # inline content is parsed where there is markup in it
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).disable(unused)


_MARKED = re.compile(r"[`*_~\[<&\\［]")
_OTHERS = frozenset(("em_open", "s_open", "link_open", "image", "code_inline", "blockquote_open", "code_block"))
_DUNDER = re.compile(r"[a-z][a-z0-9_]+")
_BULLET_LINE = re.compile(r"^[•◦▪‣][ \t]+(?=\S)", re.MULTILINE)
# CommonMark does not see the end of **重要。**请, whose writer and reader mean bold
_UNSEEN_BOLD = re.compile(r"\*\*[^\s*][^*\n]*(?<!\s)\*\*")
_TAG = re.compile(r"<[^<>]*>")
_BRACKETS = re.compile(r"(?<![\\\w\])])[\[［]([^\[\]［］\n]{1,60})[\]］](?![(\[:])")
_NO_NAME = re.compile(
    r"[\W\d_]*|\^.*|[\"'“‘].*|.*\b(?:1[5-9]|20)\d\d[a-z]?|(?:[^\W\d_]|sic|\W*(?:[^\W\d_]|\d[\d.]*)\W*(?:,\s*[+-−]?(?:[^\W_]|\d[\d.]*|∞)\s*)+)",
    re.IGNORECASE,
)


def read_markup(text: str) -> Markup:
    r"""Read the markup of a text.

    >>> found = read_markup("# Plan\n\n1. **Walk** to [place]\n2. See `[x]`\n\n```py\n# no heading\n```\n")
    >>> found.headings, found.bold, found.numbered, found.placeholders, found.fences, found.blocks
    ([1], 1, 2, 1, [('py', '# no heading')], ['Plan', 'Walk to [place]', 'See `xxx`'])
    """
    parser = _parser(tuple(rule for rule, signs in _SIGNS.items() if any(sign in text for sign in signs)))
    found, environment = Markup(), dict[str, Any]()
    tokens = parser.parse(text + "\n", environment)
    kinds = Counter([token.type for token in tokens])
    found.tables, found.others = kinds["table_open"], sum(map(kinds.__getitem__, _OTHERS))
    row: list[str] | None = None
    for i, token in enumerate(tokens):
        kind = token.type
        if kind == "inline":
            block = token.content
            if _MARKED.search(block):
                children: list[Token] = []
                parser.inline.parse(block, parser, environment, children)
                block = _inline(children, found)
            if row is not None:
                row.append(block)
            elif not block.isascii():
                starts = [match.start() for match in _BULLET_LINE.finditer(block)]
                found.bullets += len(starts)
                bounds = [0, *(start for start in starts if start), len(block)]
                found.blocks += [_BULLET_LINE.sub("", block[a:b]) for a, b in pairwise(bounds)]
            else:
                found.blocks.append(block)
            if tokens[i - 1].type == "heading_open" and block.strip():
                found.headings.append(int(tokens[i - 1].tag[1]))
        elif kind == "list_item_open":
            if tokens[i + 1].type != "list_item_close":
                found.numbered += 0 < len(token.info) <= 3
                found.bullets += not token.info
        elif kind == "fence":
            first, last = token.map or (0, 0)
            found.code_lines.append((first, last))
            if last - first == token.content.count("\n") + 2:  # its own two lines: it is closed
                found.fences.append(((token.info.split() or [""])[0].lower(), token.content.removesuffix("\n")))
        elif kind == "tr_open":
            row = []
        elif kind == "tr_close":
            found.blocks.append(" | ".join(filter(None, row or [])))
            row = None
        elif kind == "html_block":
            found.blocks.append(_TAG.sub(" ", token.content))
        elif kind == "code_block":
            found.blocks.append(token.content)
    return found


def _inline(children: list[Token], found: Markup) -> str:
    """Count the markup within a block; return its text without it."""
    prose, literal = [], []
    for i, token in enumerate(children):
        kind, content = token.type, token.content
        if kind == "text":
            prose.append(content)
            literal.append(content)
        elif kind in ("softbreak", "hardbreak"):
            prose.append("\n")
            literal.append("\n")
        elif kind == "text_special":  # an escape or an entity
            prose.append(content)
            literal.append(token.markup)
        elif kind == "code_inline":
            prose.append(f"`{'x' * len(content)}`")
            literal.append("`")
        elif kind == "strong_open":  # __init__ is a name
            named = [part.type for part in children[i + 1 : i + 3]] == ["text", "strong_close"]
            found.bold += token.markup == "**" or not (named and _DUNDER.fullmatch(children[i + 1].content))
        found.others += kind in _OTHERS
    raw = "".join(literal)
    if "**" in raw:
        found.bold += len(_UNSEEN_BOLD.findall(raw))
    if "[" in raw or "［" in raw:
        found.placeholders += sum(_NO_NAME.fullmatch(name.strip()) is None for name in _BRACKETS.findall(raw))
    return "".join(prose)
