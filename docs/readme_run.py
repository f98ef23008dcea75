"""Put finished runs into README: what the main job printed, and three responses before and after training.

python docs/readme_run.py --responses RUN_FOLDER     # store three responses of a run in benchmarks/results/readme_run.json
python docs/readme_run.py --printed FILE             # store what the main job printed (seed 0, float32)
python docs/readme_run.py                            # fill README from the stored file; the two above do so as well
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "benchmarks" / "results" / "readme_run.json"
README = ROOT / "README.md"
LONGEST = 420  # characters of a response that are shown
BATCHES = 5  # lines of batches that are shown, with the table behind them


def three_responses(run: Path) -> dict:
    """Read three pairs of responses from a run folder.

    The three prompts are those whose mean score rose most, whose change is the median, and whose score fell most; of each the first of
    its responses at the first and the last evaluation is kept.
    """
    import pyarrow.parquet as pq

    first, last = (json.loads((run / "held_out.json").read_text())["evaluations"][i] for i in (0, -1))
    change = {name: last["scores"][name] - score for name, score in first["scores"].items()}
    order = sorted(change, key=lambda name: (-change[name], name))
    rows: dict[tuple[str, int], dict] = {}
    for file in sorted((run / "rollouts").glob("val-*.parquet")):
        for row in pq.read_table(file).to_pylist():
            if row["rollout"] == 0:
                rows[row["prompt_id"], row["batch"]] = row
    shown = []
    for name, why in ((order[0], "rose most"), (order[len(order) // 2], "median change"), (order[-1], "fell most")):
        pair = [rows[name, evaluation["batch"]] for evaluation in (first, last)]
        shown.append(
            {
                "prompt": pair[0]["messages"][-1]["content"],
                "why": why,
                "scores": [first["scores"][name], last["scores"][name]],
                "responses": [row["response"] for row in pair],
                "unmet": [[c["name"] for c in row["criteria"] if c["score"] is not None and c["score"] < 1] for row in pair],
            }
        )
    return {"run": json.loads((run / "run.json").read_text())["starts"][-1], "shown": shown}


def shortened(printed: str) -> list[str]:
    """What was printed: the head, the first batches with their table, the end."""
    lines = printed.splitlines()
    batches = [i for i, line in enumerate(lines) if line.startswith("batch ")]
    end = next(i for i, line in enumerate(lines) if line.startswith("Next"))
    return [*lines[: batches[BATCHES]], "...", *lines[batches[-1] : end]]


def _shown(text: str) -> str:
    flat = " ".join(text.split())
    flat = flat if len(flat) <= LONGEST else flat[:LONGEST].rsplit(" ", 1)[0] + " …"
    return re.sub(r"([\\`*_{}\[\]<>|#$])", r"\\\1", flat)


def responses(stored: dict) -> str:
    """Three prompts with a response before and after, as a table."""
    stored = stored["responses"]
    start = stored["run"]
    command = re.sub(r" --run_dir=\S+", "", start["command"])
    lines = [
        f"Three held-out prompts of that run (commit {start['commit'][:7]}):",
        "",
        "```sh",
        command,
        "```",
        "",
        "They are chosen by rule: the prompt whose score rose most, the median one, and the one whose score fell most. Of each,",
        "the first of four responses is shown; the score is the mean of the four. A model of 135 M parameters learns the form, not facts.",
        "",
    ]
    lines += ["| prompt | before training | after training |", "|---|---|---|"]
    for entry in stored["shown"]:
        cells = [f"**{_shown(entry['prompt'])}** ({entry['why']})"]
        for score, text, unmet in zip(entry["scores"], entry["responses"], entry["unmet"], strict=True):
            cells.append(f"{_shown(text)} <br> *prompt's score {score:.2f}; unmet here: {', '.join(unmet) or 'none'}*")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def filled(text: str, stored: dict) -> str:
    """README with both blocks made anew."""
    for name, block in (("console", "\n".join(["```text", *stored["printed"], "```"])), ("responses", responses(stored))):
        text, found = re.subn(
            rf"(<!-- {name}:begin [^\n]*-->\n).*?(<!-- {name}:end -->)",
            lambda part, block=block: f"{part[1]}{block}\n{part[2]}",
            text,
            flags=re.DOTALL,
        )
        if found != 1:
            raise ValueError(f"README.md must have one block {name!r}, got {found}")
    return text


def main() -> None:
    """Store what is named, then fill README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=Path)
    parser.add_argument("--printed", type=Path)
    given = parser.parse_args()
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    if given.responses:
        stored["responses"] = three_responses(given.responses)
    if given.printed:
        stored["printed"] = shortened(given.printed.read_text(encoding="utf-8"))
    if given.responses or given.printed:
        STORED.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    README.write_text(filled(README.read_text(encoding="utf-8"), stored), encoding="utf-8")


if __name__ == "__main__":
    main()
