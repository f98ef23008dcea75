"""What a person sees on a terminal, captured by tmux while a run goes on."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BAR = re.compile(r"[━╸╺]{4}")
LOGS = re.compile(r"Trainer\.fit|stopped|Seed set|GPU available|WARNING|INFO|held-out score after|batch \d")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux, which shows what a terminal shows"),
]


def captured(command, width, folder, limit_s=240):
    """Every different screen while `command` runs, the scrolled lines included, and the last of them."""
    socket, screens = f"lightning-focal-{width}-{folder.name}", []

    def tmux(*args):
        return subprocess.run(["tmux", "-L", socket, "-f", "/dev/null", *args], capture_output=True, text=True, check=False)

    typed = f"unset CI NO_COLOR; {shlex.join(command)}; echo ENDED $?; sleep 600"
    tmux("new-session", "-d", "-x", str(width), "-y", "60", "-c", str(ROOT), typed)
    try:
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            screen = tmux("capture-pane", "-p", "-S", "-").stdout
            if screen.strip() and screen not in screens:
                screens.append(screen)
            if "ENDED" in screen:
                return screens
            time.sleep(0.1)
        raise AssertionError(f"no end within {limit_s} s:\n{screens[-1] if screens else ''}")
    finally:
        tmux("kill-server")


@pytest.mark.parametrize("width", [80, 120])
def test_a_run_is_readable(width, tmp_path):
    """No line holds both a bar and a log, no word is cut at the edge, lines come in order, an evaluation counts its own batches."""
    command = [sys.executable, "-m", "lightning_focal", "fit", "--config", "configs/focal_tiny.yaml", f"--run_dir={tmp_path}/run"]
    screens = captured([*command, "--data.limit_val=12", "--trainer.val_check_interval=2"], width, tmp_path)
    lines = [line.rstrip() for screen in screens for line in screen.splitlines()]
    assert not [line for line in lines if BAR.search(line) and LOGS.search(line)]
    bars = [line.strip() for screen in screens for line in screen.splitlines() if BAR.search(line) and re.search(r"\d/", line)]
    assert any(re.search(r"training .* [0-4]/4", bar) for bar in bars)
    assert any(re.search(r"answering held-out prompts .* [01]/1", bar) for bar in bars)
    assert all(sum(line.strip() in bars for line in screen.splitlines()) <= 1 for screen in screens)
    last = [line.rstrip() for line in screens[-1].splitlines()]
    assert "ENDED 0" in last
    assert not [line for line in last if line.strip() in bars]
    assert any(line.startswith("lightning_focal fit: loading ...") for line in lines)  # it answers at once
    assert not any("loading ..." in line for line in last)
    order = ["static: ", "reward: ", "held-out score after 0", "batch 1/4", "batch 2/4", "held-out score after 2", "batch 3/4"]
    order += ["batch 4/4", "held-out score after 4", "`Trainer.fit` stopped", "held-out prompts", "No clear change", "Next:"]
    places = [next(i for i, line in enumerate(last) if line.startswith(words)) for words in order]
    assert places == sorted(places)
    assert all(len(line) <= width for line in last)
    prose = " ".join(last).split("Next:")[0].split()
    for word in ("parameters", "bootstrap", "TensorBoard", "rollouts/*.parquet,", "(caution)", "weights"):
        assert any(word in part for part in prose), f"{word} is cut in two"
    told = " ".join("\n".join(last).split("Next:\n")[1].replace("\\\n", " ").split())
    assert f"{sys.executable} -m lightning_focal validate --config" in told.replace("\n", "")
