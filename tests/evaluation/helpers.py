"""Two local tasks whose right answers are known, and ways to run them."""

import re
from pathlib import Path

import yaml

from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.models import encode_chat
from lightning_focal.types import Prompts
from tests.conftest import write_rows

TOKENS = 12
FIRST = r"^(?:<\|\w+\|>|\s)*(\S)"  # the harness keeps special tokens in what vLLM writes, and drops them from what transformers writes
THINGS = ("tea", "rain", "bread", "wool", "paper", "salt", "wood", "glass", "iron", "silk")
QUESTIONS = [f"Say something about {thing}." for thing in THINGS]


def generate_task(folder, answers, name="words"):
    """A ``generate_until`` task: the first character that is no blank must be the answer. Returns the path of its YAML file as text."""
    rows = [{"question": question, "answer": answer} for question, answer in zip(QUESTIONS, answers, strict=True)]
    return _task(folder, name, rows, "exact_match", {
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [], "max_gen_toks": TOKENS, "do_sample": False},
        "filter_list": [{"name": "word", "filter": [{"function": "regex", "regex_pattern": FIRST}, {"function": "take_first"}]}],
    })  # fmt: skip


def choice_task(folder, name="choices"):
    """A ``multiple_choice`` task of ten questions with three choices."""
    rows = [{"question": q, "choices": ["yes", "no idea", "it is so"], "answer": i % 3} for i, q in enumerate(QUESTIONS)]
    kind = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}"}
    return _task(folder, name, rows, "acc", kind)


def _task(folder, name, rows, metric, content):
    file = write_rows(folder / f"{name}.jsonl", rows)
    data = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test"}
    metrics = {"metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}]}
    return write_task(folder / f"{name}.yaml", data | {"doc_to_text": "{{question}}"} | content | metrics)


def read_task(path):
    return yaml.safe_load(Path(path).read_text())


def write_task(path, content):
    path.write_text(yaml.safe_dump(content))
    return str(path)


def greedy(model, tokenizer, questions=QUESTIONS, tokens=TOKENS):
    """Answers of a policy by our own generator."""
    chats = tuple(({"role": "user", "content": question},) for question in questions)
    prompts = Prompts(tuple(questions), chats, tokens=tuple(encode_chat(tokenizer, chat) for chat in chats))
    drawn = HFGenerator().generate(
        model,
        tokenizer,
        prompts,
        group_size=1,
        seeds=[0] * len(questions),
        sampling=Sampling(temperature=0, max_new_tokens=tokens),
    )
    return [texts[0] for texts in drawn.texts]


def half_right(model, tokenizer):
    """Gold answers of which a policy has every other one right, where it writes anything; and the share it has right."""
    words = [re.search(FIRST, text) for text in greedy(model, tokenizer)]
    gold = [word[1] if word and i % 2 == 0 else "zzz" for i, word in enumerate(words)]
    right = sum(word is not None and word[1] == answer for word, answer in zip(words, gold, strict=True))
    return gold, right / len(gold)
