"""Commands of the pages made short: a policy of a few thousand parameters, one batch, two questions, a server on this machine."""

import json
import re
from pathlib import Path

import yaml

from tests.commands.test_rephrase import rephrasing
from tests.docs.pages import blocks
from tests.judges.faulty_server import entries, verdicts

TINY = "random:tiny-llama?hidden=32&layers=1"
MODELS = ("Qwen/Qwen3-32B", "my-model", "some-model")
"""What pages call the models of their servers."""
FORCED = {"model.policy": TINY, "model.sampling.max_new_tokens": "4", "trainer.limit_train_batches": "1"}
FORCED |= {"trainer.max_epochs": "1", "trainer.devices": "1"}
"""Makes a run of any configuration take a second."""
SMALLER = {"model.val_group_size": "1", "model.group_size": "2", "trainer.limit_val_batches": "1"}
SMALLER |= {"trainer.accelerator": "cpu", "trainer.precision": "32-true"}
"""The same, where the command does not say otherwise."""
FEW_QUESTIONS = {"trainer.val_check_interval": "1", "data.train": "12", "data.val": "2", "data.batch_size": "2"}
FEW_QUESTIONS |= {"data.max_prompt_tokens": "512"}  # bytes for tokens
WARM_START = {"model.val_questions": "2", "model.val_group_size": "1", "data.train": "8", "data.val": "2", "data.batch_size": "4"}
WARM_START |= {"model.policy": TINY, "trainer.max_steps": "1", "trainer.val_check_interval": "1", "trainer.accelerator": "cpu"}
CONTROLLED = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1",
    "--model.val_group_size=2",
]
EVOLVING = "configs/evolving.yaml"
_ADDRESS = re.compile(r"https?://(?:localhost|api\.example\.com)[:\d]*/v1")


def asks_a_server(given):
    return any(_ADDRESS.search(word) or "healthbench_judge" in word or word == EVOLVING for word in given)


def reply(request, number):
    """What the server on this machine says: verdicts to a judge's request, a rephrasing to a question, criteria, a bad answer."""
    prompt = request["messages"][-1]["content"]
    if "Propose at most" in prompt:
        return criteria(prompt)
    if "without care" in request["messages"][0]["content"]:
        return "I do not know."
    if ids := re.findall(r"(\S+) for response \d", prompt):  # of a judge that compares: all are first
        return verdicts([{"id": id_, "verdict": "graded", "value": 1, "reason": "as it is"} for id_ in ids])
    return rephrasing(request) if "<question>" in prompt else verdicts(entries(prompt))


def criteria(prompt):
    """One for each of the first words that the better response alone has, and one that is always met."""
    better, worse = (re.findall(rf"<{side}-response-\w+>\n(.*?)\n</", prompt, re.DOTALL) for side in ("better", "worse"))
    words = [word for word in better[0].split() if word.isalnum() and word not in " ".join(worse).split()][:2]
    listed = [{"name": f"says {w}", "description": f"Says {w}.", "points": 3, "tags": ["axis:accuracy"]} for w in [*words, "I"]]
    return json.dumps({"criteria": listed})


def save_files(page, folder):
    """Save the blocks of a page that are files, and its rows in HealthBench format as the data of their configuration."""
    for block in blocks(page):
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
        if block.language == "json" and '"prompt_id"' in block.text:
            (folder / "data").mkdir(exist_ok=True)
            for name in ("train", "heldout"):
                (folder / f"data/healthbench_{name}.jsonl").write_text(json.dumps(json.loads(block.text)), encoding="utf-8")


def smaller(given, url):
    """Return the command with what makes it short.

    Args:
        given: words behind the name of the program.
        url: of a server that answers with :func:`reply`; it stands in for every server of the pages.
    """
    if any(word.endswith("help") or word in ("--print_config", "--reward.help") for word in given):
        return given
    given = [_ADDRESS.sub(url, word) for word in given]
    made = {"ablate": ablate, "eval": evaluate, "lm-eval": harness, "rephrase": rephrase, "sft": sft, "fit": fit, "judge": judge}
    return made.get(given[0], lambda same, url: same)(given, url)


def fit(given, url):
    if "--ckpt_path" in given:
        return given
    named = {word.removeprefix("--").split("=")[0] for word in given}
    added = {**FORCED, **{key: value for key, value in SMALLER.items() if key not in named}}
    if "co_rewarding" in " ".join(given):
        added |= {key: value for key, value in FEW_QUESTIONS.items() if key not in named}
    if "losses/dapo.yaml" in " ".join(given):
        added |= {"reward.reward.max_completion_len": "4", "reward.reward.soft_punish_cache": "2"}
    if "LocalJudge" in " ".join(given):
        second = "--reward.held_out_judge=LocalJudge" in given
        added["reward.held_out_judge.source" if second else "reward.judge.other.source"] = TINY
    if "healthbench_judge" in " ".join(given):
        added |= {"reward.judge.init_args.url": url, "data.batch_size": "1"}
    if EVOLVING in given:
        Path("evolving.yaml").write_text(_ADDRESS.sub(url, Path(EVOLVING).read_text(encoding="utf-8")), encoding="utf-8")
        given = ["evolving.yaml" if word == EVOLVING else word for word in given]
        added |= {"model.sampling.max_new_tokens": "16", "model.group_size": "8"}  # rollouts of different reward
    if "--trainer.callbacks+=LMEval" in given:
        given = [*given, "--trainer.callbacks.limit=2"]
    return [*given, *(f"--{key}={value}" for key, value in added.items())]


def sft(given, url):
    return [*given, *(f"--{key}={value}" for key, value in WARM_START.items())]


def judge(given, url):
    if "--judge=LocalJudge" in given:
        return [*given, f"--judge.source={TINY}"]
    checks = "--config" in given and "--agreement" not in given
    return [*given, f"--url={url}"] if checks else given


def evaluate(given, url):
    return [TINY if word.startswith("pypi:") else word for word in given] + ["--limit=2"]


def harness(given, url):
    return [*given, "--limit", "2", "--device", "cpu"]


def rephrase(given, url):
    for path in Path().glob("pairs.*"):  # other settings for the same file are refused
        path.unlink()
    return [*given, "--max_tokens=16"] if "--policy" in given else given


def ablate(given, url):
    """One arm, one seed, one batch."""
    cut = given.index("--") if "--" in given else len(given)
    own, rest = given[1:cut], given[cut + 1 :]
    path = Path(own[own.index("--config") + 1])
    grid = yaml.safe_load(path.read_text(encoding="utf-8"))
    label = next(iter(grid["arms"]))
    grid |= {"config": str((path.parent / grid["config"]).resolve()), "arms": {label: grid["arms"][label]}}
    small = Path(path.name)
    small.write_text(yaml.safe_dump(grid), encoding="utf-8")
    own = [str(small) if word == str(path) else word for word in own]
    own = [word for word in own if not word.startswith("--seeds") and not word.startswith("[")]
    return ["ablate", *own, "--seeds=[0]", "--", *CONTROLLED, *rest]
