"""Draw what commands print as pictures of a terminal, docs/_static/screen_*.svg, and pages of a browser, docs/_static/*.webp.

python docs/draw_screens.py [NAME ...]     # all of SCREENS and BROWSER by default; the latter need a Chromium
python docs/draw_screens.py FILE.png ...   # a picture that was made elsewhere, as WebP

Everything is a real run in a new folder, with the files that the page has.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "docs" / "_static"
COLUMNS = 110
MOST = 60_000
"""Bytes of a picture."""
sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Screen:
    """Commands of a how-to, what was typed before them and is not shown, and how many of the first lines are."""

    page: str
    commands: tuple[str, ...]
    before: tuple[str, ...] = ()
    lines: int = 40
    killed: bool = False  # the first command, after its second batch


TINY = "fit --config configs/focal_tiny.yaml"
SCREENS = {
    "rubrics": Screen("rubric", ("rubrics configs/data/everyday/heldout.jsonl",)),
    "plan": Screen("one_gpu", ("plan --config configs/scale/qwen3_8b_lora_one_gpu.yaml",)),
    "plan_eight": Screen("eight_gpus", ("plan --config configs/scale/qwen3_8b_fsdp2.yaml",)),
    "plan_nodes": Screen("many_nodes", ("plan --config configs/scale/qwen3_30b_a3b_fsdp2.yaml --memory 141",)),
    "fit": Screen("policy", (TINY,), lines=50),
    "agreement": Screen("judge", ("judge --agreement gold.json --judge=RuleJudge",)),
    "check": Screen("http_judge", ("judge --check --url http://127.0.0.1:8000/v1 --model judge",)),
    "resume": Screen("resume", (f"{TINY} --checkpoint.every_n_batches=1", f"{TINY} --ckpt_path=last"), killed=True, lines=10),
    "replay": Screen(
        "strategy",
        ("replay --rollouts runs/focal_tiny/rollouts --reward=my_strategy.HardestReward --grid='{share: [0.1, 0.9]}'",),
        (TINY,),
    ),
    "eval": Screen("evaluation", ("eval --ckpt_path random:tiny-llama --tasks capitals.yaml",), lines=12),
    "sft": Screen(
        "warm_start", ("sft --config configs/sft_tiny_chain_sum.yaml --trainer.max_steps=20 --model.val_questions=16",), lines=16
    ),
}


def run(command: str, folder: Path, killed: bool = False) -> str:
    """What a command prints in a folder; one that is to be killed is so after its second batch."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "CI": "1", "COLUMNS": str(COLUMNS)}
    started = subprocess.Popen(
        [sys.executable, "-m", "lightning_focal", *shlex.split(command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
    )
    lines = []
    for line in started.stdout:
        lines.append(line)
        if killed and line.startswith("batch 3/"):
            started.send_signal(signal.SIGKILL)
            lines.append("Killed\n")
    if started.wait() and not killed:
        raise RuntimeError(f"{command}: {started.stderr.read()[-2000:]}")
    printed = "".join(lines).rstrip().replace(str(folder), "~")
    return re.sub(r"(\S*python\S* -m |/\S*/)lightning_focal", "lightning_focal", printed)


def judged(prompt: str) -> str:
    """The reply of a judge to the sample of `judge --check`, by this script."""
    from tests.judges.faulty_server import entries, verdicts

    says = (("met", None, "names Paris"), ("not_met", None, "is in English"), ("graded", 5, "one plain sentence"))
    return verdicts(
        [
            entry | {"verdict": verdict, "value": value, "reason": reason}
            for entry, (verdict, value, reason) in zip(entries(prompt), says, strict=True)
        ]
    )


def draw(name: str) -> None:
    """Run a screen's commands and write its picture, which asks for no font of the network."""
    from tests.docs.pages import blocks
    from tests.judges.faulty_server import serving

    screen = SCREENS[name]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "configs").symlink_to(ROOT / "configs")
        for block in blocks(ROOT / "docs" / "howto" / f"{screen.page}.md"):
            if block.file:
                (folder / block.file).write_text(block.text, encoding="utf-8")
        for command in screen.before:
            run(command, folder)
        console = Console(record=True, width=COLUMNS, file=io.StringIO())
        for at, command in enumerate(screen.commands):
            with serving(reply=judged) as server:
                typed = command.replace("http://127.0.0.1:8000/v1", server.url)
                printed = run(typed, folder, screen.killed and at == 0).replace(server.url, "http://127.0.0.1:8000/v1")
            shown = printed.splitlines()
            cut = [] if len(shown) <= screen.lines else ["..."]
            console.print(Text(f"$ lightning_focal {command}", style="bold"))
            console.print(Text("\n".join([*shown[: screen.lines], *cut])))
    picture = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=f"lightning_focal {name}"), flags=re.DOTALL)
    (STATIC / f"screen_{name}.svg").write_text(picture, encoding="utf-8")


def draw_tensorboard(runs: Path | None = None) -> None:
    """Values in TensorBoard, of a folder of runs or of a new one."""
    from tests.report.chromium import Chromium

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "configs").symlink_to(ROOT / "configs")
        if runs is None:
            run(f"{TINY} --trainer.max_epochs=4", folder)
        server = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs or folder / "runs"), "--port", "6016"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with Chromium(1200, 760) as browser:
                patience = time.monotonic() + 200
                while not browser.run("document.body && document.body.innerText.includes('train/weight')"):
                    if time.monotonic() > patience:
                        raise RuntimeError("TensorBoard showed nothing")
                    browser.ask("Page.navigate", url="http://127.0.0.1:6016/?tagFilter=train%2Fweight#timeseries")
                    time.sleep(15)
                browser.run("[...document.querySelectorAll('button')].find(b => b.innerText.includes('Settings')).click()")
                time.sleep(40)  # until every curve is drawn, on a busy machine too
                browser.screenshot(folder / "page.png")
            smaller(folder / "page.png", "tensorboard", 0.75)
        finally:
            server.terminate()
            server.wait()


def draw_votes() -> None:
    """The three figures of a collapse, from docs/_static/label_free_fast.svg."""
    from tests.report.chromium import Chromium

    with tempfile.TemporaryDirectory() as made, Chromium(1200, 420) as browser:
        page = Path(made) / "page.html"
        page.write_text(
            f'<body style="margin:0"><img src="{(STATIC / "label_free_fast.svg").as_uri()}" style="width:1200px">', "utf-8"
        )
        browser.ask("Page.navigate", url=page.as_uri())
        time.sleep(3)
        browser.screenshot(Path(made) / "page.png", whole=True)
        smaller(Path(made) / "page.png", "votes", 0.8)


def smaller(png: Path, name: str, scale: float = 1.0) -> None:
    """Write a picture as lossless WebP, in as many colours as fit into :data:`MOST` bytes."""
    from PIL import Image

    picture = Image.open(png).convert("RGB")
    picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.LANCZOS)
    for colours in (256, 128, 64, 32):
        few = picture.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.convert("RGB").save(STATIC / f"{name}.webp", lossless=True, method=2)
        if (STATIC / f"{name}.webp").stat().st_size < MOST:
            return
    raise RuntimeError(f"{name}.webp: {(STATIC / f'{name}.webp').stat().st_size} bytes, must be < {MOST}")


BROWSER = {"tensorboard": draw_tensorboard, "votes": draw_votes}

if __name__ == "__main__":
    for name in sys.argv[1:] or [*SCREENS, *BROWSER]:
        if name.endswith(".png"):
            smaller(Path(name), Path(name).stem)
        else:
            BROWSER.get(name, partial(draw, name))()
        print(name)
