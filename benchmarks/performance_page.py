"""Write the tables of docs/performance.md from the stored results.

python benchmarks/performance_page.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
RUNS = ("tiny", "small", "smollm2", "tiny_bf16", "small_bf16", "tiny_mixed", "small_mixed")
ON_GPU = ("qwen_gpu",)
BARS = {"tiny": 2.5, "small": 2.1, "smollm2": 1.8, "tiny_bf16": 1.8, "small_bf16": 1.5}
MEMORY_BARS = {"tiny": 0.9, "smollm2": 0.6}


def stored(names=RUNS):
    """The results there are, by name."""
    paths = {name: HERE / "results" / f"step_vs_trl_{name}.json" for name in names}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def beside_trl(runs):
    lines = [
        "| job | TRL, s | ours, s | total [min, max] | generate | reference | update | peak memory, ours / TRL | busy elsewhere |",
        "|" + " --- |" * 9,
    ]
    for name, run in runs.items():
        seconds = [f"{run['seconds'][library]['total']['median']:.2f}" for library in ("trl", "ours")]
        total = run["ratios"]["total"]
        ratio = f"**{total['median']:.2f}** [{total['min']:.2f}, {total['max']:.2f}]"
        phases = [f"{run['ratios'][phase]['median']:.2f}" for phase in ("generate", "reference", "update")]
        memory = "not measured"
        if "memory_ratio" in run:
            peaks = [run["peak_bytes"][library] / 2**20 for library in ("ours", "trl")]
            memory = f"{peaks[0]:.0f} / {peaks[1]:.0f} MiB = {run['memory_ratio']:.2f}"
        busy = f"{100 * max(run['other_processes_cpu_share'], 0):.0f} %"
        lines.append("| " + " | ".join([name.replace("_", ", "), *seconds, ratio, *phases, memory, busy]) + " |")
    one = next(iter(runs.values()))
    where = one["provenance"]
    lines.append("")
    lines.append(
        f"{one.get('gpu', where['cpu'])}, {where['cores']} cores, torch {where['torch']}, TRL {one['trl']}, transformers {one['transformers']}. "
        f"Largest difference of the first losses: {max(run['work']['loss_difference'] for run in runs.values()):.1e}; of the gradient norms, "
        f"relative: {max(run['work']['gradient_norm_relative_difference'] for run in runs.values()):.1e}."
    )
    return lines


def misses(runs):
    lines = []
    for name, bar in BARS.items():
        if name in runs and runs[name]["ratio_total_median"] < bar:
            lines.append(f"* {name.replace('_', ', ')}: {runs[name]['ratio_total_median']:.2f}, the aim is {bar}.")
    for name, bar in MEMORY_BARS.items():
        if name in runs and runs[name].get("memory_ratio", 0) > bar:
            lines.append(
                f"* {name}: {100 * runs[name]['memory_ratio']:.0f} % of TRL's peak memory, the aim is {100 * bar:.0f} %."
            )
    return ["**Missed:**", "", *lines] if lines else ["Every aim is met."]


def growth(result):
    lines = ["| | " + " | ".join(["", "", "", ""]) + " | exponent |", "|" + " --- |" * 6]
    for axis, of in result["seconds"].items():
        cells = [f"{value}: {seconds['total']['median']:.2f} s" for value, seconds in of.items()]
        lines.append(f"| {axis.replace('_', ' ')} | " + " | ".join(cells) + f" | {result['exponents'][axis]:.2f} |")
    lines.append("")
    more = result["growth_from_1_to_64_criteria"]
    lines.append(
        f"The exponent is the slope of log time over log size. The bare model's own forward and backward pass grows with response length by "
        f"an exponent of {result['models_own_exponent']:.2f}. From 1 to 64 criteria a step grows by {100 * more['median']:.1f} % (median of "
        f"neighbouring steps, {100 * more['min']:.1f} to {100 * more['max']:.1f} %)"
        + (": the aim is 3 %, **missed**." if more["median"] > 0.03 else "; the aim is 3 %.")
    )
    return lines


def main():
    runs, scaling = stored(), HERE / "results" / "scaling.json"
    tables = {"trl": beside_trl(runs), "misses": misses(runs)}
    if on_gpu := stored(ON_GPU):
        tables["gpu"] = beside_trl(on_gpu)
    if scaling.exists():
        tables["scaling"] = growth(json.loads(scaling.read_text()))
    page = PAGE.read_text()
    for name, lines in tables.items():
        block = f"<!-- table: {name} -->\n" + "\n".join(lines) + "\n<!-- end -->"
        page = re.sub(rf"<!-- table: {name} -->.*?<!-- end -->", lambda _, block=block: block, page, flags=re.DOTALL)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
