"""Every check kind on texts judged by hand: at least one that meets it and one that does not."""

import pytest

from lightning_focal.judges import CHECKS, Outcome
from lightning_focal.judges.rules import ResponseView, compile_check

ASKED = {"role": "user", "content": "How do bicycles stay upright while riding slowly?"}
CHAT = ({"role": "system", "content": "Be brief."}, ASKED)
LIST = "Buy:\n- milk\n* bread\n• eggs"
STEPS = "First:\n1. Boil water\n2) Add tea\nDone."
HARD = "Institutional administrative responsibilities necessitate consideration."
TABLE = "| a | b |\n|---|:-:|\n| 1 | 2 |"

# kind, arguments, texts that meet it, texts that do not
CASES = [
    ("exact", {"text": "yes"}, ["yes", "  yes\n"], ["Yes", "yes."]),
    ("exact", {"text": ["yes", "no"], "ignore_case": True}, ["NO"], ["maybe"]),
    ("contains", {"text": "Doctor"}, ["ask a doctor", "doctors"], ["ask a nurse"]),
    ("contains", {"text": "Doctor", "ignore_case": False}, ["Doctor!"], ["doctor"]),
    ("not_contains", {"text": "cure"}, ["It helps."], ["A CURE.", "secure"]),
    ("keywords", {"words": ["protein", "oat fibre"]}, ["Protein and Oat Fibre."], ["Protein alone.", "proteins, oat fibre"]),
    ("keywords", {"words": ["a1", "b2", "c3"], "at_least": 2}, ["a1 c3"], ["b2 b2"]),
    ("any_keyword", {"words": ["cost", "budget"]}, ["The COST?"], ["costs, budgets"]),
    ("keyword_count", {"word": "tea", "min": 2, "max": 3}, ["tea, Tea."], ["tea", "tea tea tea tea", "teapot tea"]),
    ("forbidden_words", {"words": ["very", "can't"]}, ["Every one."], ["Very good.", "You can’t."]),
    ("regex", {"pattern": r"^Answer: \d+$"}, ["Hm.\nAnswer: 12\n"], ["The Answer: 12", "answer: 12"]),
    ("regex", {"pattern": "TEA", "ignore_case": True}, ["tea"], ["coffee"]),
    ("not_regex", {"pattern": "https?://"}, ["no link"], ["see http://x.org"]),
    ("starts_with", {"text": "Dear"}, ["  dear Ann,"], ["Hi, Dear"]),
    ("starts_with", {"text": ["Hi", "Hello"], "ignore_case": False}, ["Hello you"], ["hello you"]),
    ("ends_with", {"text": ["Bye!", "Cheers"]}, ["That is all. bye!\n"], ["Bye! Then."]),
    ("mentions_prompt", {"at_least": 2}, ["Bicycles lean while moving."], ["Wheels while spinning.", "Bike."]),
    ("no_prompt_echo", {"words": 4}, ["They stay upright by steering."], ["How do bicycles stay? They steer."]),
    ("min_words", {"words": 3}, ["one two three"], ["one two"]), ("max_words", {"words": 3}, ["one two three"], ["one two three four"]),
    ("words_between", {"min": 2, "max": 3}, ["one two", "one two three"], ["one", "one two three four"]),
    ("white_space_words", {"min": 3, "max": 3}, ["one - two's", "a  b\n\u3000c"], ["one-two three", "a,b c"]),
    ("min_sentences", {"sentences": 2}, ["One. Two?"], ["Just Dr. Who."]),
    ("max_sentences", {"sentences": 1}, ["It costs 3.50 euros."], ["One. Two."]),
    ("sentences_between", {"min": 2, "max": 2}, ["One! Two."], ["One.", "One. Two. Three."]),
    ("min_paragraphs", {"paragraphs": 2}, ["a\n\nb"], ["a\nb"]), ("max_paragraphs", {"paragraphs": 1}, ["\n\na\nb\n\n"], ["a\n \nb"]),
    ("paragraphs_between", {"min": 2, "max": 2}, ["a\n\n\n\nb"], ["a", "a\n\nb\n\nc"]),
    ("min_characters", {"characters": 3}, ["abc"], [" ab "]), ("max_characters", {"characters": 3}, [" abc\n"], ["abcd"]),
    ("characters_between", {"min": 2, "max": 3}, ["ab", "abc"], ["a", "abcd"]), ("min_lines", {"lines": 2}, ["a\n\nb"], ["a\n\n"]),
    ("max_lines", {"lines": 2}, ["a\n\nb\n"], ["a\nb\nc"]), ("lines_between", {"min": 1, "max": 2}, ["a"], ["a\nb\nc"]),
    ("max_average_sentence", {"words": 3}, ["One two. One two three four."], ["One two three. One two three four."]),
    ("max_longest_sentence", {"words": 3}, ["One two. One two three."], ["One. One two three four."]),
    ("bullets", {"min": 3}, [LIST], ["- a\n-b\n- c", "---\n**a**\n- c"]), ("bullets", {"min": 1, "max": 2}, ["- a"], [LIST, "none"]),
    ("no_bullets", {}, ["a - b\n2024 was dry."], [LIST, STEPS]),
    ("numbered_list", {"min": 2, "max": 2}, [STEPS], ["1. one", "1.one\n2.two"]), ("list_items", {"min": 5}, [LIST + "\n" + STEPS], [LIST]),
    ("headings", {"min": 2}, ["# A\ntext\n## B"], ["# A\n#B"]), ("headings", {"level": 2, "max": 1}, ["# A\n## B"], ["# A", "## A\n## B"]),
    ("bold", {"min": 2}, ["**a** and __b__"], ["**a** and *b*"]),
    ("table", {}, [TABLE, "a | b\n--|--"], ["| a | b |", "a | b\n--|--|--", "a - b\n---"]),
    ("code_block", {}, ["```\nx\n```"], ["```\nx", "`x`"]),
    ("code_block", {"language": "Python"}, ["```python\nx = 1\n```"], ["```js\nx\n```"]),
    ("no_markdown", {}, ["Plain * text # here."], ["# A", "**b**", "- c", TABLE, "```\nd\n```"]),
    ("placeholders", {"min": 2}, ["Dear [name], meet at [place]."], ["Dear [name], see [1] and [a link](b)."]),
    ("no_placeholders", {}, ["[x] done, see [2]"], ["Dear [name]"]), ("postscript", {}, ["Bye.\np.s. Call me."], ["The P.S. is missing"]),
    ("postscript", {"marker": "P.P.S"}, ["Bye.\n**P.P.S** Call."], ["P.S. Call"]),
    ("json", {}, ['{"a": 1}', "```json\n[1]\n```", "3"], ["{'a': 1}", '{"a": 1} ok', "NaN", "[" * 100_000, "9" * 5000 + "]"]),
    ("json", {"schema": {"required": ["a"], "properties": {"a": {"type": "integer"}}}}, ['{"a": 1, "b": 2}'], ["{}", '{"a": "1"}']),
    ("quoted", {}, ['"All of it."', "“So.”"], ['"Half" of it', '""']), ("quotation", {"min": 2}, ['"a" and “b”'], ['"a" and b']),
    ("ends_with_question", {}, ["Right?", 'He said: "Why?"\n', "**Ready?**"], ["Right? Yes."]),
    ("contains_question", {}, ["Right? Yes."], ["No."]), ("contains_question", {"min": 2, "max": 2}, ["Who? Where?"], ["Who? There."]),
    ("no_question", {}, ["No."], ["No?"]), ("no_exclamation", {}, ["Calm."], ["Hey!"]), ("no_commas", {}, ["One and two."], ["One, two."]),
    ("ends_with_punctuation", {}, ["Done.", "Done!)", "So…"], ["Done", "Done:"]), ("lowercase", {}, ["all low 1."], ["All low.", "123"]),
    ("uppercase", {}, ["ALL HIGH 1."], ["ALL HIGh.", "!!!"]),
    ("title_case", {}, ["The Lord of the Rings\nis long"], ["The lord of the Rings", "of Mice", "123"]),
    ("capitalised_sentences", {}, ["One. Two. 3 more."], ["One. two."]),
    ("emoji", {"min": 1, "max": 2}, ["Hi 🙂"], ["Hi :)", "🙂🙂🙂", "© 2024"]), ("no_emoji", {}, ["Café ™ → here"], ["Yes 👍"]),
    ("ascii_only", {}, ["plain"], ["café"]), ("contains_number", {}, ["Take 2."], ["Take two."]),
    ("no_digits", {}, ["Take two."], ["Take 2."]),
    ("distinct_numbers", {"min": 2, "max": 2}, ["1,000 or 1000 or 3.5"], ["1,000 or 1000", "1 2 3"]),
    ("no_repeated_ngram", {"n": 2}, ["a b c a"], ["a b c A b"]), ("no_repeated_ngram", {"n": 1, "times": 2}, ["a a b"], ["a a a"]),
    ("no_repeated_sentence", {}, ["One. Two. Three"], ["One. Two. one!"]), ("min_unique_words", {"ratio": 0.75}, ["a b c a"], ["a b a a"]),
    ("readability", {"min": 60}, ["The cat sat on the mat. It was warm."], [HARD]),
    ("readability", {"max": 60}, [HARD], ["The cat sat on the mat."]),
    ("no_first_person", {}, ["Drink water, i.e. plain water in the US."], ["I drink.", "Let us go.", "It’s my cup.", "we're"]),
    ("addresses_reader", {"min": 2}, ["You know your town."], ["You know a town."]),
    ("no_apology", {}, ["Of course not."], ["Sorry, no.", "Unfortunately not."]),
    ("no_hedging", {}, ["It is so."], ["Perhaps it is.", "I think it is.", "It might be."]),
    ("hedging", {"min": 2}, ["Perhaps it might."], ["Perhaps."]),
    ("no_ai_disclaimer", {}, ["AI is a field."], ["As an AI, no.", "I’m a language model."]),
    ("no_filler_opening", {}, ["Surely not.", "Heat the pan."], ["Sure! Heat it.", "Here's how:", "**Certainly**, heat it."]),
    ("answer", {"expected": "1/2"}, [r"\boxed{0.5}", r"\boxed{3} no, \boxed{\frac{2}{4}}"], [r"\boxed{2}", "none", r"\boxed{"]),
    ("answer", {"expected": "42"}, ["I say 41, no: 42", "It is $42$."], ["I say 42, no: 41"]),
    ("answer", {"expected": r"\$18.90"}, [r"\boxed{\$18.90}", "18.9"], [r"\boxed{18}"]),
    ("ifeval", {"instruction": "punctuation:no_comma"}, ["None."], ["One, two."]),
    ("ifeval", {"instruction": "keywords:existence", "arguments": {"keywords": ["tea"]}}, ["Tea."], ["Milk."]),
    ("ifeval", {"instruction": "startend:quotation", "loose": True}, ['"a"', 'Sure:\n"a"'], ["a"]),
    ("python", {"target": "tests.judges.functions:has_lines", "arguments": {"lines": 2}}, ["a\nb"], ["a"]),
]  # fmt: skip

CODE = "Here:\n\n```python\n# load\nfor i in range(3): x = a**2 + b[index]**2\n\nassert x != 2, 'Why?'\n```\nDone."

# the same of scripts, code and what looks alike: kind, arguments, texts that meet it, texts that do not
CASES += [
    ("words_between", {"min": 3, "max": 3}, ["پانی\u200cها را می\u200cخوانم", "日本語", "Visit https://a.org/b?c=1 now"], ["日本"]),
    ("max_words", {"words": 5}, ["पानी पीना सेहत के लिए"], ["ภาษาไทยเป็นภาษา", "每天喝足够的水"]),
    ("max_characters", {"characters": 3}, ["नमस्ते", "👨‍👩‍👧👍🏽🇩🇪", "e\u0301a\u0301"], ["Ärger"]),
    ("keywords", {"words": ["naïve", "健康"]}, ["nai\u0308ve 身体健康"], ["naive 健康"]), ("keywords", {"words": ["कर"]}, ["यह कर।"], ["करना"]),
    ("forbidden_words", {"words": ["very good"]}, ["very, good"], ["very\u00a0good", "VE\u00adRY GOOD", "ｖｅｒｙ good"]),
    ("contains", {"text": "10 km well-known"}, ["10\u202fkm well\u2011known"], ["10km well–known"]),
    ("not_contains", {"text": "—"}, ["a - b – c"], ["a—b"]), ("exact", {"text": "don't"}, ["don’t", "\ufeffdon't"], ["dont"]),
    ("exact", {"text": "x2"}, ["ｘ２"], ["x²"]), ("starts_with", {"text": "مرحبا"}, ["\u200fمرحبا بك"], ["أهلا"]),
    ("ends_with", {"text": "..."}, ["so…"], ["so."]), ("regex", {"pattern": "^résumé$"}, ["re\u0301sume\u0301"], ["resume"]),
    ("ends_with_punctuation", {}, ["好。", "है।", "Τι είναι;", "「はい。」", "ሰላም።"], ["好，", "α;"]),
    ("ends_with_question", {}, ["これは何？", "እንዴት፧", "كيف؟", "Πού είναι;", "Really?!"], ["好。"]),
    ("no_question", {}, ["Run `a ? b : c`.", CODE], ["Πού είναι;", "Ինչպե՞ս եք։"]),
    ("no_exclamation", {}, [CODE, "`a != b`"], ["好！", "Բարև՜"]),
    ("no_commas", {}, [CODE.replace("3)", "3, 4)")], ["水、茶", "ሻይ፣ ቡና", "ماء، حليب"]),
    ("no_first_person", {}, [CODE, "The U.S. and the US, i.e. both."], ["The US told us."]),
    ("no_hedging", {}, ["```\nmaybe\n```\nYes."], ["Maybe `x`."]),
    ("emoji", {"min": 2, "max": 2}, ["👨‍👩‍👧‍👦🇩🇪", "1️⃣ and ❤️"], ["👍🏽", "✔ © 5 #"]),
    ("capitalised_sentences", {}, ["გამარჯობა. როგორ ხარ?", "`x` is set. 好。"], ["Да. нет."]), ("lowercase", {}, ["straße"], ["你好"]),
    ("uppercase", {}, ["ÀÉ STRASSE"], ["STRAßE", "你好"]), ("quoted", {}, ["«Oui.»", "„Ja.“", "「はい」"], ["'No'"]),
    ("quotation", {}, ["»Ja«", "「はい」"], ["```\nprint(\"a\")\n```"]),
    ("distinct_numbers", {"min": 2, "max": 2}, ["3,5 and 35", "٣ and 4"], ["1,000 and 1000"]),
    ("max_paragraphs", {"paragraphs": 3}, [CODE], ["a\n\nb\n\nc\n\nd"]),
    ("max_sentences", {"sentences": 2}, [CODE, "Dr. Lee paid $3.50 on Jan. 5. Fine."], ["好。好。好。"]),
    ("headings", {}, ["Title\n---", "> # A"], [CODE, "~~~\n```\n# a\n```\n~~~", "    # a", "<!--\n# a\n-->"]),
    ("bold", {}, ["**注意：**请"], [CODE, "Define __init__ here.", "Use `**kwargs` and `**x`.", "\\*\\*a\\*\\*"]),
    ("bullets", {"min": 2}, ["> - a\n> - b", "- a\n  - b"], ["```yaml\n- a\n- b\n```", "    - a\n    - b"]),
    ("numbered_list", {"min": 3}, ["1. a\n\n   text\n2. b\n   - c\n3. d"], ["```\n1. a\n2. b\n3. c\n```"]),
    ("table", {}, ["Here:\n|a|b|\n|-|-|\n|1|2|"], [f"```\n{TABLE}\n```"]),
    ("code_block", {"language": "python"}, ["- a\n  ```python\n  x\n  ```", "~~~ Python title\nx\n~~~"], ["````\n```python\n```\n````"]),
    ("no_placeholders", {}, [CODE, "In [0, 1], \\[ E = m \\], a[i], [Lee, 2020]."], ["Dear [Hiring Manager's Name],"]),
    ("no_markdown", {}, ["2 * 3 = 6, a_b_c, C#, <b, #1."], ["[a](b)", "> a", "`a`", "A\n==="]),
    ("json", {}, ["~~~json\n[1]\n~~~"], ["~~~\n[1]"]), ("no_repeated_sentence", {}, ["好。不好。"], ["好。好！"]),
    ("title_case", {}, ["“The Lord of the Rings”"], ["“the Lord”"]), ("postscript", {}, ["Bye.\nP.S.\u00a0Call"], ["PS"]),
    ("mentions_prompt", {"at_least": 1}, ["BICYCLES\u00ad"], ["自転車"]),
]  # fmt: skip

# kind, arguments, text, grade
GRADES = [
    ("target_words", {"words": 4}, "one two three", 0.75), ("target_words", {"words": 4, "spread": 2}, "one two three", 0.5),
    ("target_words", {"words": 4, "spread": 2}, "one two three four five six seven", 0.0), ("unique_words", {}, "a b A b", 0.5),
]  # fmt: skip


def judge(kind, arguments, text):
    return compile_check({"kind": kind, **arguments})[1](ResponseView(CHAT, text))


@pytest.mark.parametrize(("kind", "arguments", "met", "not_met"), CASES, ids=[f"{case[0]}-{i}" for i, case in enumerate(CASES)])
def test_met_and_not_met(kind, arguments, met, not_met):
    for outcome, texts in ((Outcome.MET, met), (Outcome.NOT_MET, not_met)):
        for text in texts:
            verdict = judge(kind, arguments, text)
            assert (verdict.outcome, bool(verdict.reason)) == (outcome, True), (text[:80], verdict)


def test_grades_and_that_every_kind_is_tested():
    for kind, arguments, text, grade in GRADES:
        verdict = judge(kind, arguments, text)
        assert (verdict.outcome, verdict.value, CHECKS[kind].graded) == (Outcome.GRADED, grade, True)
    no_rule = {"environment"}  # tests/environments have it
    assert {case[0] for case in CASES} | {case[0] for case in GRADES} == set(CHECKS) - no_rule


@pytest.mark.parametrize(("kind", "arguments", "text", "reason"), [
    ("max_words", {"words": 3}, "one two three four", "4 words, at most 3 allowed"),
    ("min_words", {"words": 3}, "one", "1 words, at least 3 asked"),
    ("sentences_between", {"min": 2, "max": 3}, "One.", "1 sentences, 2 to 3 asked"),
    ("numbered_list", {"min": 2, "max": 2}, "1. one", "1 numbered items, 2 asked"),
    ("no_exclamation", {}, "Hey!", "1 exclamation marks, none allowed"),
    ("keywords", {"words": ["tea", "milk"]}, "Tea.", "1 of 2 keywords, at least 2 asked; missing 'milk'"),
    ("forbidden_words", {"words": ["very"]}, "Very.", "forbidden: 'very'"), ("ends_with_question", {}, "So.", "last character '.'"),
    ("no_first_person", {}, "I and my cat.", "first person: 'i', 'my'"),
    ("json", {"schema": {"required": ["a"]}}, "{}", "JSON does not fit the schema at $: 'a' is a required property"),
    ("target_words", {"words": 50}, "one two", "2 words, 50 aimed at"),
    # 6 words, 1 sentence, 6 syllables: 206.835 - 1.015 * 6 - 84.6 = 116.145
    ("readability", {"min": 60}, "The cat sat on the mat.", "Flesch reading ease 116.1, at least 60 asked"),
    ("answer", {"expected": "42"}, r"\boxed{41}", "answer '41', expected '42'"),
])  # fmt: skip
def test_reasons_say_what_was_measured(kind, arguments, text, reason):
    assert judge(kind, arguments, text).reason == reason


def test_a_prompt_without_long_words_makes_mentions_prompt_not_applicable():
    run = compile_check({"kind": "mentions_prompt"})[1]
    for chat in (({"role": "user", "content": "Why so?"},), ()):
        assert run(ResponseView(chat, "Because.")).outcome is Outcome.NOT_APPLICABLE
