"""Draw what commands print as pictures of a terminal: docs/_static/screen_*.svg.

python docs/draw_screens.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "rubrics": "rubrics configs/data/everyday/heldout.jsonl",
    "plan": "plan --config configs/scale/qwen3_8b_lora_one_gpu.yaml",
}
COLUMNS = 100


def draw(name: str, command: str) -> None:
    """Run a command and write its output as a picture that asks for no font of the network."""
    done = subprocess.run(
        [sys.executable, "-m", "lightning_focal", *command.split()], capture_output=True, text=True, check=True, cwd=ROOT
    )
    console = Console(record=True, width=COLUMNS, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(Text(f"$ lightning_focal {command}", style="bold"))
    console.print(Text(done.stdout.rstrip()))
    picture = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=f"lightning_focal {name}"), flags=re.DOTALL)
    (ROOT / "docs" / "_static" / f"screen_{name}.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    for name, command in COMMANDS.items():
        draw(name, command)
