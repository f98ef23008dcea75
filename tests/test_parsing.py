"""The help of every command: an example, no markup; complaints of one message; and all of it without a slow import."""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys

import pytest
import yaml

from lightning_focal.entry import COMMANDS, RUNS, main
from lightning_focal.overview import EXAMPLES, HELP, OVERVIEW, help_of, mistakes, options_of
from tests.docs.pages import ROOT, set_up_program
from tests.report.made_run import make_run


@pytest.fixture
def said(capsys, monkeypatch):
    """Exit status and words of a command."""
    set_up_program(monkeypatch)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return ended.value.code, "".join(capsys.readouterr())

    return run


def test_every_command_has_an_example_and_a_line_of_the_overview():
    assert EXAMPLES.keys() == {*COMMANDS, *RUNS}
    assert all(re.search(rf"^  {name} +\S", OVERVIEW, re.MULTILINE) for name in EXAMPLES)
    assert max(map(len, OVERVIEW.splitlines())) <= 80  # fits a narrow terminal


def test_help(said):
    """A run's own keys come first, Lightning's last."""
    for command in (*RUNS, *COMMANDS):
        code, text = said(command, "--help")
        assert code in (0, None)
        assert text.startswith(f"usage: lightning_focal {command} ")
        assert text.endswith(f"\nexample:\n  {EXAMPLES[command]}\n")
        assert not re.search(r"``|:class:|:data:", text)
    _, text = said("fit", "--help")
    places = [text.index(f"\n  --{key} ") for key in ("run_dir", "reward", "model", "data", "checkpoint", "trainer")]
    assert places == sorted(places)
    assert text.startswith("usage: lightning_focal fit [options]\n")
    _, text = said("fit", "--reward.help", "FocalReward")
    assert "tau, in units of reward" in " ".join(text.split())


PARTS = ["fit", "--model.policy=x", "--model.optimizer=SGD", "--reward=FocalReward"]


@pytest.mark.parametrize(("arguments", "words"), [
    (["eval", "--tusks=x"], ["there is no option --tusks (did you mean --tasks?)", "options are explained by lightning_focal eval --help"]),
    (["fit", "--model.policy=x", "--model.group_size=many"], ['"model.group_size"', "<class 'int'>", "Got value: many"]),
    # what a part complains of is said of the command; the first of a class of torch's
    ([*PARTS, "--model.optimizer.lrr=1"], ['error: Parser key "model.optimizer', "there is no key 'lrr' (did you mean lr?)"]),
    ([*PARTS, "--reward.judge=HTTPJuge"], ['error: Parser key "reward', "there is no class 'HTTPJuge' (did you mean HTTPJudge?)"]),
])  # fmt: skip
def test_complaints(arguments, words, said):
    code, text = said(*arguments)
    assert code == 2
    assert text.startswith("error: ")
    assert arguments[:4] == PARTS or len(text.splitlines()) <= 3
    assert arguments[:4] != PARTS or text.endswith("\ntip: options are explained by lightning_focal fit --help\n")
    assert all(word in text for word in words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model:\n  policy: x\n bad: [1,\n", "line 3, is no YAML: expected <block end>, but found"),
        ("model:\n\tpolicy: x\n", "line 2, is no YAML: found character"),
        ("- a\n", " must hold keys and their values, got ['a']"),
        ("", " must hold keys and their values, got nothing"),
        ("model: other.yaml\n", "line 3, is no YAML: expected ',' or ']'"),
        (b"\xff\xfe", " is no text in UTF-8 (byte 0)"),
        ("a: \x01\n", " is no YAML: unacceptable character"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "export"])
def test_a_broken_file_is_named_with_its_line(text, words, command, tmp_path, said):
    path = tmp_path / "broken.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "other.yaml").write_text("a: 1\npolicy: [x\n")
    for config in ([f"--config={path}"], ["--config", str(path)]):
        code, told = said(command, *config)
        assert code == 2
        named = tmp_path / "other.yaml" if "other" in str(text) else path
        assert told.startswith(f"error: `--config`: {named}")
        assert words in told.splitlines()[0]


# -- without a slow import -----------------------------------------------------------------------------------------------------------

FIT = ["fit", "--config", "focal.yaml"]
TYPOS = [
    (["nonsense"], ["there is no command 'nonsense'; there are fit, validate", *RUNS, *COMMANDS]),
    (["repot", "runs/a"], ["there is no command 'repot' (did you mean report?)"]),
    (["fit", "--model.policy", "--config=configs/focal_tiny.yaml"], ["--model.policy must have a value"]),
    (["fit"], ["`fit` must be told what to do", "lightning_focal fit --config configs/focal_tiny.yaml"]),
    (["report"], ["lightning_focal report runs/focal_tiny"]),
    ([*FIT, "--model.group_sise=4"], ["there is no option --model.group_sise (did you mean --model.group_size?)"]),
    ([*FIT, "--reward.gama", "1"], ["there is no option --reward.gama (did you mean --reward.gamma?)"]),
    ([*FIT, "--reward=StaticReward", "--reward.gamma=1"], ["there is no option --reward.gamma"]),
    ([*FIT, "--gamma=1"], ["there is no option --gamma (did you mean --reward.gamma?)"]),
    ([*FIT, "--max_epochs=1"], ["there is no option --max_epochs (did you mean --trainer.max_epochs?)"]),
    ([*FIT, "--data.trian=x"], ["there is no option --data.trian (did you mean --data.train?)"]),
    ([*FIT, "--reward", "FocalRewrad"], ["`reward` must be a reward strategy, got 'FocalRewrad' (did you mean FocalReward?)", "StaticReward"]),
    (["fit", "--conf", "focal.yaml"], ["there is no option --conf (did you mean --config?)"]),
    (["fit", "--config", "focall.yaml"], ["`--config` must be an existing file, got 'focall.yaml' (did you mean focal.yaml?)"]),
    (["fit", "-c", "key.yaml"], ["key.yaml: there is no key `model.group_sise` (did you mean model.group_size?)"]),
    (["fit", "--config=top.yaml"], ["top.yaml: there is no key `trainor` (did you mean trainer?)"]),
    (["plan", "--config=argument.yaml"], ["argument.yaml: there is no key `reward.init_args.gama` (did you mean gamma?)"]),
    (["validate", "--config=class.yaml"], ["got 'lightning_focal.rewards.FocalRewrad' (did you mean FocalReward?)"]),
    (["sft", "--config=focal.yaml", "--stop_ad=1"], ["there is no"]),  # a configuration of another command
    (["fit", "focal.yaml"], ["`fit` takes options alone, got 'focal.yaml' (did you mean --config focal.yaml?)"]),
    ([*FIT, "--quiet=true", "run_dir=x"], ["got 'run_dir=x' (did you mean --run_dir=x?)"]),
    ([*FIT, "--seed=3"], ["there is no option --seed (did you mean --seed_everything?)"]),
    ([*FIT, "--reward.judge=HTTPJudge", "--reward.judge.init_args.ulr=x"], ["(did you mean --reward.judge.url?)"]),
    ([*FIT, "--trainer.logger=WandbLoger"], ["`trainer.logger` must be a logger, got 'WandbLoger' (did you mean WandbLogger?)"]),
    ([*FIT, *(f"--trainer.callbacks{more}" for more in ("+=LMEval", ".tasks=x", "+=EMATeacher", ".ent=1"))],
     ["there is no option --trainer.callbacks.ent (did you mean --trainer.callbacks.end?)"]),
    (["judge", "--chek"], ["there is no option --chek (did you mean --check?)"]),
    (["judge", "--agreement=x", "--repeat=2"], ["there is no option --repeat (did you mean --repeats?)"]),
    (["rubrics", "--generate=x", "--answer=2"], ["there is no option --answer (did you mean --answers?)"]),
    (["export", "--ckpt=x"], ["there is no option --ckpt (did you mean --ckpt_path?)"]),
    (["report", "nowhere"], ["`runs`: 'nowhere' must be a run folder"]),
]  # fmt: skip
QUICK = """
import contextlib, io, json, sys
from lightning_focal.entry import main
said = []
for arguments in json.load(sys.stdin):
    words, status = io.StringIO(), 0
    with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
        try:
            main(arguments)
        except SystemExit as ended:
            status = ended.code
    said.append([status, words.getvalue()])
json.dump([said, sorted({"torch", "lightning", "transformers", "torchmetrics", "datasets", "pandas"} & sys.modules.keys())], sys.stdout)
"""


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """A folder with configurations, most of them with one mistake."""
    monkeypatch.chdir(tmp_path)
    reward = {"class_path": "lightning_focal.rewards.FocalReward", "init_args": {"gamma": 1.0}}
    content = {"reward": reward, "model": {"policy": "random:tiny-llama", "group_size": 4}}
    content["data"] = {"class_path": "RubricDataModule", "init_args": {"train": "x.jsonl"}}
    mistaken = {
        "focal": {},
        "key": {"model": {"policy": "random:tiny-llama", "group_sise": 4}},
        "top": {"trainor": {"max_epochs": 1}},
        "argument": {"reward": reward | {"init_args": {"gama": 1.0}}},
        "class": {"reward": reward | {"class_path": "lightning_focal.rewards.FocalRewrad"}},
    }
    for name, change in mistaken.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content | change), encoding="utf-8")
    return tmp_path


def test_help_typos_and_a_report_import_nothing_slow(typed):
    """Each with the right words. What takes seconds is imported only once there is something to do."""
    make_run(typed / "run", batches=3)
    told = [(["--help"], ["usage: lightning_focal COMMAND"]), (["report", "run"], ["written to run/report.html"])]
    told += [([command, "--help"], [f"usage: lightning_focal {command} "]) for command in (*RUNS, *COMMANDS)]
    given = [*(arguments for arguments, _ in [*TYPOS, *told]), []]
    done = subprocess.run(
        [sys.executable, "-c", QUICK], input=json.dumps(given), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    answers, slow = json.loads(done.stdout)
    assert slow == []
    status, text = answers.pop()  # of no command at all
    assert (status, text.startswith("usage: lightning_focal COMMAND")) == (2, True)
    for (arguments, words), (status, text) in zip([*TYPOS, *told], answers, strict=True):
        assert all(word in text for word in words), (arguments, text)
        assert (status in (None, 0)) == ((arguments, words) in told), arguments
        assert text.startswith("error: ") == (status not in (None, 0)), arguments
    assert all("\ntip: " in text and len(text.splitlines()) <= 3 for _, text in answers[: len(TYPOS)])


def test_no_key_of_a_shipped_configuration_is_called_a_mistake(monkeypatch):
    monkeypatch.chdir(ROOT)
    seen = 0
    for config in sorted({*(ROOT / "configs").rglob("*.yaml")} - {*(ROOT / "configs" / "eval").iterdir()}):
        if {"model", "trainer"} <= yaml.safe_load(config.read_text(encoding="utf-8")).keys():
            command = "sft" if config.name.startswith("sft") else "fit"
            assert list(mistakes(command, ["--config", str(config)])) == [], config
            seen += 1
    assert seen > 30


@pytest.mark.parametrize(
    "args",
    [
        ["--reward=my_package.MyReward", "--reward.gama=1"],  # a class of somebody else
        ["--reward=my_package.FocalReward", "--reward.gama=1"],
        ["--reward=my_package.MyReward", "--reward.init_args.gama=1"],
        ["--model.lora={r: 4}", "--model.lora.r=4", "--model.lora=null"],
        ["--model.optimizer=AdamW", "--model.optimizer.lr=1", "--model.optimizer.init_args.betas=[0, 1]"],
        ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=x", "--trainer.logger=false"],
        ["--reward=FocalReward", "--reward.judge=HTTPJudge", "--reward.judge.url=x", "--reward.help", "FocalReward"],
        ["--data", "PairDataModule", "--data.train=--x", "--print_config", "-c", "{model: {group_size: 4}}"],
        ["--config", "focal.yaml", "--", "--nonsense"],
    ],
)
def test_what_may_be_right_is_left_to_the_parser(typed, args):
    assert list(mistakes("fit", args)) == []


def test_a_class_that_is_there_is_no_slip_of_the_pen_however_like_another():
    there = "lightning_focal.integrations.verifiers.EnvironmentData"
    assert list(mistakes("fit", [f"--data={there}"])) == []
    assert "did you mean Environment?" in next(mistakes("fit", [f"--data={there[:-4]}s"]))


BEHIND = "lightning_focal/help is behind the code: run `python docs/options.py`"


def test_options_and_arguments_are_those_of_the_parsers():
    """Lightning's own aside, which go with its release."""
    spec = importlib.util.spec_from_file_location("docs_options", ROOT / "docs" / "options.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.arguments() == json.loads((HELP / "classes.json").read_text(encoding="utf-8")), BEHIND
    for name, parser in made.parsers().items():
        texts = parser.format_help(), help_of(name.split("-")[0], [f"--{part}" for part in name.split("-")[1:]])
        found = [set(re.findall(r"^  (?:-\w \w+, )?--([\w.]+)", text, re.MULTILINE)) for text in texts]
        ours, theirs = ({option for option in options if not option.startswith("trainer.")} for options in found)
        assert ours == theirs, f"{name}: {BEHIND}"


@pytest.mark.slow  # it imports everything once more, as tests define classes that the help would name
def test_help_is_that_of_the_parsers_word_by_word(tmp_path):
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    versions = {name: importlib.metadata.version(name).split("+")[0] for name in ("jsonargparse", "lightning", "torch")}
    others = [name for name, version in versions.items() if version != pinned[name]]
    if others or sys.version_info[:2] != (3, 11):
        pytest.skip(f"the help was written with Python 3.11 and constraints.txt, which has another release of {others}")
    program = "import sys, pathlib, runpy, lightning_focal.overview as o; o.HELP = pathlib.Path(sys.argv[1]); "
    program += f"runpy.run_path({str(ROOT / 'docs' / 'options.py')!r}, run_name='__main__')"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=200)
    for path in tmp_path.iterdir():
        assert path.read_text(encoding="utf-8") == (HELP / path.name).read_text(encoding="utf-8"), BEHIND
    assert {path.name for path in HELP.iterdir()} - {path.name for path in tmp_path.iterdir()} == {"lm-eval.txt"}


def test_options_of_a_command():
    assert {"out", "rollouts", "help"} <= options_of("report").keys()
    assert {"config", "model.group_size", "trainer.max_epochs", "devices"} <= options_of("plan").keys()
    assert "check" in options_of("judge")
    assert "repeats" in options_of("judge", ["--agreement", "x"])
