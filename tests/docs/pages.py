"""README and the pages under docs/, taken apart."""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
PROGRAMS = (["lightning_focal"], ["python", "-m", "lightning_focal"])
_FENCE = re.compile(
    r"(?:^<!-- file: (?P<file>\S+) -->\n|^<!-- needs: (?P<needs>[^>]+) -->\n)?"
    r"^(?P<ticks>`{3,})(?P<language>[\w{}-]*)[^\n]*\n(?P<text>.*?)^(?P=ticks)$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it starts at, the file it is saved as, and what it needs that tests lack."""

    language: str
    text: str
    line: int
    file: str | None
    needs: str | None


def blocks(page):
    source = page.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(source):
        line = source.count("\n", 0, fence.start("text")) + 1
        found.append(Block(fence["language"], fence["text"], line, fence["file"], fence["needs"]))
    return found


def prose(page):
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(page):
    """Every command line in the page's shell blocks, as lists of words: comments gone, `a && b` taken apart."""
    shell = [block.text for block in blocks(page) if block.language in ("sh", "bash")]
    for line in "\n".join(shell).replace("\\\n", " ").splitlines():
        command = []
        for word in shlex.split(line, comments=True):
            if word == "&&":
                yield command
                command = []
            else:
                command.append(word)
        if command:
            yield command


def arguments(command):
    """What follows the name of our program, or None for another program; variables set before it (`CI=1 ...`) are left out."""
    while command and re.match(r"[A-Z_]+=", command[0]):
        command = command[1:]
    for program in PROGRAMS:
        if command[: len(program)] == program:
            return command[len(program) :]
    return None


def set_up_program(patch):
    """Make `patch` undo what a run of the program leaves in the process: its arguments and its environment."""
    patch.setattr(sys, "argv", ["lightning_focal"])
    for name in ("LIGHTNING_FOCAL_RUN_FOLDER", "PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        patch.setenv(name, "")  # noted, so that it is undone even where it was not set
        patch.delenv(name)


def title(page):
    return str(page.relative_to(ROOT))
