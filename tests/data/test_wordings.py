"""Questions in other words."""

import pytest

from lightning_focal.data.wordings import WORDINGS, in_words, reword, worked_steps

SUM = "State the final answer to the following arithmetic problem: {} ="


def test_numbers_in_words():
    small = {7: "seven", 10: "ten", 19: "nineteen", 20: "twenty", 99: "ninety-nine", 100: "one hundred", 1000: "one thousand"}
    large = {1010: "one thousand ten", 123456: "one hundred twenty-three thousand four hundred fifty-six", 2000000: "two million"}
    large |= {10**12 + 1: "one trillion one"}
    large[10**15 - 1] = " ".join(
        f"nine hundred ninety-nine {unit}" for unit in ("trillion", "billion", "million", "thousand", "")
    )
    texts = {"007": "zero zero seven", "0.05": "zero point zero five", "1" + "0" * 15: "one" + " zero" * 15}
    for number, words in (small | large | texts).items():
        assert in_words(str(number)) == words.strip()
    assert len({in_words(str(n)) for n in range(3000)}) == 3000  # every number has words of its own


@pytest.mark.parametrize(("expression", "wording", "words"), [
    ("43 + 25", "bare", "43 + 25 ="),
    ("43 + 25", "plain", "Work out 43 + 25."),
    ("43 + 25", "told", "Add 25 to 43."),
    ("43 - 25", "told", "Take 25 from 43."),
    ("4 - 1 + 7", "told", "Start with 4, take away 1, then add 7."),
    ("43 + 25", "spelt", "What is forty-three plus twenty-five?"),
    ("2 - -1", "spelt", "What is two minus minus one?"),
    ("2 * (1 + 3) / 4", "spelt", "What is two times open bracket one plus three close bracket divided by four?"),
    ("4.44 - 1.2", "told", "Take 1.2 from 4.44."),
])  # fmt: skip
def test_sums(expression, wording, words):
    for task, question in {
        "chain_sum": SUM.format(expression),
        "basic_arithmetic": f"Calculate {expression}.",
        "decimal_chain_sum": SUM.format(expression),
    }.items():
        assert reword(task, question, wording) == words


@pytest.mark.parametrize(("task", "question", "words"), [
    ("products", "Solve the following multiplication: 12 * 3. Give only the result as your final answer.", "How much is 12 times 3?"),
    ("simple_equations", "Solve for e: 56 - 98*e = -1218", "Which number must e be for 56 - 98*e to equal -1218?"),
    ("simple_equations", "Find the value of q in the equation: q + 2 = 3", "Which number must q be for q + 2 to equal 3?"),
    ("simple_equations", "Determine the value of a that satisfies: 2*a = 4", "Which number must a be for 2*a to equal 4?"),
    ("gcd", "Find the Greatest Common Divisor (GCD) of these numbers: 78, 46. Give only the GCD as your final answer.",
     "What is the largest whole number that divides each of 78, 46 without a remainder?"),
    ("lcm", "Find the Least Common Multiple (LCM) of these numbers: 9, 5",
     "What is the smallest positive whole number that each of 9, 5 divides without a remainder?"),
    ("letter_counting", 'How many times does the letter "h" appear in the text: "oh \\1 "hi""?',
     'Read this text: "oh \\1 "hi"". Count every "h" in it. What is the count?'),
    ("count_bits", "How many 1 bits are there in the binary representation of the number 5?",
     "Write 5 in base two. How many of its digits are ones?"),
    ("spell_backward", "Spell this word backward (example: sun -> nus): splat",
     'Write the letters of "splat" from the last to the first, as in: sun -> nus.'),
])  # fmt: skip
def test_other_families(task, question, words):
    assert reword(task, question, None) == words


def test_the_tasks_own_words_families_without_others_and_a_wording_that_does_not_fit():
    assert reword("rubiks_cube", "Turn it.", "task") == "Turn it."
    assert reword("rubiks_cube", "Turn it.", None) is None
    assert reword("chain_sum", "Something new", None) is None
    with pytest.raises(ValueError, match=r"task 'chain_sum' has no wording 'sung', it has: task, spelt, plain, told, bare"):
        reword("chain_sum", SUM.format("1 + 1"), "sung")
    message = r"the wording 'told' of task 'basic_arithmetic' cannot put this question: 'Calculate 2 \* 3.'"
    with pytest.raises(ValueError, match=message):
        reword("basic_arithmetic", "Calculate 2 * 3.", "told")


def test_steps():
    assert worked_steps(SUM.format("4 - 1 - 7")) == "4 - 1 = 3. 3 - 7 = -4."
    assert worked_steps(SUM.format("1.5 + 0.5")) == "1.5 + 0.5 = 2.0."
    assert worked_steps("Calculate 2 * 3.") is worked_steps("Calculate 2 - -3.") is None


def test_real_questions_are_known():
    """The forms above are those of the installed version."""
    reasoning_gym = pytest.importorskip("reasoning_gym")
    for task in WORDINGS:
        data = reasoning_gym.create_dataset(task, size=30, seed=3)
        for question in (data[i]["question"] for i in range(30)):
            assert reword(task, question, None) not in (None, "", question), (task, question)
