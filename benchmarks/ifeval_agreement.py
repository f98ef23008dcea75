"""Do the rule judge and the checkers of IFEval agree, case by case?

Compared are, on generated responses of which some follow their instruction and some do not,

* the check ``ifeval`` of the rule judge with the evaluation of the package if-verifiable, and with the checkers of
  lm-evaluation-harness, where its folder ``lm_eval/tasks/ifeval`` is given: another code base for the same instructions;
* checks of our own that mean the same as an instruction, with that instruction.

The sentence splitter of nltk needs data that is downloaded; where it is absent, one without training stands in on every side.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import re
import sys
import types
from pathlib import Path

from lightning_focal.judges import JudgeRequest, Outcome, RuleJudge
from lightning_focal.rubrics import Criterion

PLAIN = "water tea morning garden river bread quick slow bright paper window teacher number story letter green music road"
WORDS = PLAIN.split()
SENTENCES = (
    "We walked along the river in the morning and talked about the garden.",
    "The teacher wrote a short letter to the whole class.",
    "Fresh bread tastes best with a cup of green tea, as everybody knows.",
    "There is no quick way to learn how music works!",
    "Could you open the window before you leave?",
    "This number is larger than the one on the other page.",
)
GERMAN = "Wir gingen am Morgen am Fluss entlang und sprachen lange über den Garten der Nachbarin."
RELATIONS = ("less than", "at least")


def sentences(dice, low=1, high=6):
    return [dice.choice(SENTENCES) for _ in range(dice.randint(low, high))]


def text(dice):
    """Prose with now and then a mark that instructions ask for."""
    parts = sentences(dice)
    extra = (
        "* one\n* two", "- one\n- two\n- three", "[name] [address]", "*marked part* and **another**", "P.S. Call me.",
        "P.P.S Write soon.", '{"a": 1}', "<<A Title>>", "<<>>", "***", "******", "SECTION 1\nfirst\nSECTION 2\nsecond", "I'm sure",
        "My answer is yes.", "No Commas HERE", "NASA and the EU", dice.choice(WORDS), "",
    )  # fmt: skip
    for _ in range(dice.randint(0, 3)):
        parts.insert(dice.randint(0, len(parts)), dice.choice(extra))
    return dice.choice((" ", "\n", "\n\n")).join(parts)


def relation(dice, name, count, unit="relation"):
    return {name: dice.randint(1, count), unit: dice.choice(RELATIONS)}


def cases(instruction, count, seed):
    """Arguments and response of ``count`` cases of an instruction; about half are made to follow it."""
    dice = random.Random(f"{instruction} {seed}")
    return [CASES[instruction](dice, text(dice)) for _ in range(count)]


def either(dice, aimed, other):
    return aimed if dice.random() < 0.5 else other


def language(dice, body):
    return {"language": dice.choice(("en", "de", "fr"))}, either(dice, GERMAN, body)


def words_case(dice, body):
    chosen = dice.sample(WORDS, dice.randint(1, 3))
    return {"keywords": chosen}, either(dice, f"{body} {' '.join(chosen)}.", body)


def nth_paragraph(dice, body):
    count, word = dice.randint(1, 3), dice.choice(WORDS)
    nth = dice.randint(1, count)
    made = [" ".join(sentences(dice, 1, 2)) for _ in range(count)]
    made[nth - 1] = either(dice, f"{word.capitalize()} {made[nth - 1]}", made[nth - 1])
    arguments = {"num_paragraphs": count, "nth_paragraph": nth, "first_word": word}
    return arguments, either(dice, "\n\n".join(made), body)


def paragraphs(dice, body):
    count = dice.randint(1, 4)
    return {"num_paragraphs": count}, either(dice, "\n***\n".join(" ".join(sentences(dice, 1, 2)) for _ in range(count)), body)


def bullets(dice, body):
    count = dice.randint(1, 3)
    listed = "\n".join(f"{dice.choice('*-')} {dice.choice(SENTENCES)}" for _ in range(count))
    return {"num_bullets": count}, either(dice, f"Points:\n{listed}", body)


def sections(dice, body):
    count, splitter = dice.randint(1, 3), dice.choice(("Section", "SECTION"))
    made = "\n".join(f"{splitter} {i + 1}\n{dice.choice(SENTENCES)}" for i in range(count))
    return {"section_spliter": splitter, "num_sections": count}, either(dice, made, body)


def highlights(dice, body):
    count = dice.randint(1, 3)
    return {"num_highlights": count}, either(dice, f"{body} " + " ".join(f"*part {i}*" for i in range(count)), body)


def capitals(dice, body):
    return relation(dice, "capital_frequency", 4, "capital_relation"), either(dice, f"{body} NASA AND THE BBC", body)


def repeat(dice, body):
    asked = dice.choice(SENTENCES)
    return {"prompt_to_repeat": asked}, either(dice, f"{asked}\n{body}", body)


def ending(dice, body):
    phrase = dice.choice(("Is there anything else?", "Any other questions?"))
    return {"end_phrase": phrase}, either(dice, f"{body} {phrase}{dice.choice(('', ' ', chr(34)))}", body)


def placeholders(dice, body):
    return {"num_placeholders": dice.randint(1, 3)}, either(dice, f"{body} [place] [date] [time]", body)


def postscript(dice, body):
    marker = dice.choice(("P.S.", "P.P.S"))
    return {"postscript_marker": marker}, either(dice, f"{body}\n{marker} Call me.", body)


def two_responses(dice, body):
    return {}, either(dice, f"{body}\n******\n{dice.choice((body, text(dice)))}", body)


def bare(make):
    return lambda dice, body: ({}, either(dice, make(dice, body), body))


CASES = {
    "keywords:existence": words_case,
    "keywords:frequency": lambda d, b: ({"keyword": d.choice(WORDS), **relation(d, "frequency", 3)}, b + " " + " ".join(WORDS)),
    "keywords:forbidden_words": lambda d, b: ({"forbidden_words": d.sample(WORDS, 2)}, b),
    "keywords:letter_frequency": lambda d, b: (
        {"letter": d.choice("abcdeqz"), **relation(d, "let_frequency", 9, "let_relation")},
        b,
    ),
    "language:response_language": language,
    "length_constraints:number_sentences": lambda d, b: (relation(d, "num_sentences", 7), b),
    "length_constraints:number_paragraphs": paragraphs,
    "length_constraints:number_words": lambda d, b: (relation(d, "num_words", 80), b),
    "length_constraints:nth_paragraph_first_word": nth_paragraph,
    "detectable_content:number_placeholders": placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": bullets,
    "detectable_format:constrained_response": bare(
        lambda d, b: d.choice(("My answer is yes.", "My answer is no.", "My answer is maybe."))
    ),
    "detectable_format:number_highlighted_sections": highlights,
    "detectable_format:multiple_sections": sections,
    "detectable_format:json_format": bare(
        lambda d, b: d.choice(('{"a": [1, 2]}', '```json\n{"a": "b"}\n```', '{"a": }', "[1, 2"))
    ),
    "detectable_format:title": bare(lambda d, b: f"<<A {d.choice(WORDS)}>>\n{b}"),
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat,
    "startend:end_checker": ending,
    "change_case:capital_word_frequency": capitals,
    "change_case:english_capital": bare(lambda d, b: b.upper()),
    "change_case:english_lowercase": bare(lambda d, b: b.lower()),
    "punctuation:no_comma": bare(lambda d, b: b.replace(",", "")),
    "startend:quotation": bare(lambda d, b: f'"{b}"'),
}
"""Instruction: makes arguments and a response of dice and prose."""

OWN = {
    "punctuation:no_comma": lambda a: "no_commas",
    "change_case:english_lowercase": lambda a: "lowercase",
    "change_case:english_capital": lambda a: "uppercase",
    "startend:quotation": lambda a: "quoted",
    "keywords:forbidden_words": lambda a: {"kind": "forbidden_words", "words": a["forbidden_words"]},
    "detectable_format:number_bullet_lists": lambda a: {"kind": "bullets", "min": a["num_bullets"], "max": a["num_bullets"]},
    "length_constraints:number_words": lambda a: (
        {"kind": "min_words", "words": a["num_words"]}
        if a["relation"] == "at least"
        else {"kind": "max_words", "words": a["num_words"] - 1}
    ),
}
"""Instructions that a check of our own means, too: its specification from the instruction's arguments."""


def detected(body):
    """The language that the benchmark takes a text to be in."""
    import langdetect

    try:
        return langdetect.detect(body)
    except langdetect.LangDetectException:
        return None


NAMED = {
    # IFEval parts words at every mark: "I'm", "well-known", "3.5" and "P.S" are two each, here they are one
    "length_constraints:number_words": lambda body: re.search(r"\w['’.,@-]\w", body),
    # IFEval counts a line that starts with *emphasis* and one like -this or ---, and no + or •
    "detectable_format:number_bullet_lists": lambda body: re.search(r"^\s*(?:\*[^*\s]|-(?!\s)|-\s*$|[+•]\s)", body, re.MULTILINE),
    # IFEval asks for English besides; its detector takes some capitals for German
    "change_case:english_capital": lambda body: detected(body) != "en",
    "change_case:english_lowercase": lambda body: detected(body) != "en",
}
"""Where a check of our own means something else on purpose: the responses on which the two may differ."""


def check_splitter():
    """Name the sentence splitter; put one without training in place of one that is absent."""
    import nltk

    util = importlib.import_module("if_verifiable.ifeval.instructions_util")
    try:
        util.count_sentences("One. Two.")
        nltk.word_tokenize("One. Two.")
    except LookupError:
        splitter = nltk.tokenize.punkt.PunktSentenceTokenizer()
        nltk.tokenize._get_punkt_tokenizer = lambda language="english": splitter
        return "PunktSentenceTokenizer without training, on every side", splitter
    return "punkt", None


def stand_in(util, splitter):
    if splitter is not None:
        util._get_sentence_tokenizer = lambda: splitter


def lm_eval_registry(folder):
    """The checkers of lm-evaluation-harness alone: its package imports much that is not needed here."""
    for name in ("lm_eval", "lm_eval.tasks", "lm_eval.tasks.ifeval"):
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(folder)]
    return importlib.import_module("lm_eval.tasks.ifeval.instructions_registry").INSTRUCTION_DICT


def ours(check, response):
    criterion = Criterion("c", "d", check=check)
    return RuleJudge().judge([JudgeRequest((), response, (criterion,))])[0][0].outcome


def compare(instruction, count, seed, harness=None):
    """How often the outcomes agree on the cases of one instruction."""
    from if_verifiable.common import evaluate_instructions
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT

    row = {"cases": count, "met": 0, "errors": 0, "if_verifiable": 0}
    if harness is not None:
        row["lm_eval"] = 0
    if instruction in OWN:
        row |= {"own_check": 0, "own_check_differs_as_named": 0}
    for arguments, response in cases(instruction, count, seed):
        outcome = ours({"kind": "ifeval", "instruction": instruction, "arguments": arguments}, response)
        met = outcome is Outcome.MET
        row["met"] += met
        row["errors"] += outcome is Outcome.ERROR
        results, _ = evaluate_instructions(response, [instruction], [arguments], "", INSTRUCTION_DICT)
        row["if_verifiable"] += outcome is not Outcome.ERROR and met == results[0].strict_pass
        if harness is not None:
            checker = harness[instruction](instruction)
            checker.build_description(**arguments)
            row["lm_eval"] += outcome is not Outcome.ERROR and met == bool(response.strip() and checker.check_following(response))
        if instruction in OWN:
            same = (ours(OWN[instruction](arguments), response) is Outcome.MET) == results[0].strict_pass
            row["own_check"] += same
            row["own_check_differs_as_named"] += not same and instruction in NAMED and bool(NAMED[instruction](response))
    return row


def measure(count, seed, folder=None, instructions=None):
    name, splitter = check_splitter()
    stand_in(importlib.import_module("if_verifiable.ifeval.instructions_util"), splitter)
    harness = None if folder is None else lm_eval_registry(folder)
    if harness is not None:
        stand_in(sys.modules["lm_eval.tasks.ifeval.instructions_util"], splitter)
    rows = {instruction: compare(instruction, count, seed, harness) for instruction in instructions or CASES}
    totals = {
        key: sum(row.get(key, 0) for row in rows.values()) for key in ("cases", "met", "errors", "if_verifiable", "lm_eval")
    }
    return {"splitter": name, "cases_per_instruction": count, "seed": seed, "totals": totals, "instructions": rows}


def main():
    from provenance import provenance

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--cases", type=int, default=500, help="cases an instruction")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lm_eval", type=Path, help="the folder lm_eval/tasks/ifeval of lm-evaluation-harness")
    arguments = parser.parse_args()
    result = {**measure(arguments.cases, arguments.seed, arguments.lm_eval), **provenance()}
    written = json.dumps(result, indent=2)
    print(written)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(written + "\n")


if __name__ == "__main__":
    main()
