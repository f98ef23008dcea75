"""What answers say: golds in many writings beside wrong neighbours, what people write, and where an answer stands."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_focal.judges import Equivalence, JudgeRequest, Outcome, RuleJudge
from lightning_focal.judges.written_answers import gold_answer, read_answer, same_answer, stated_answer
from lightning_focal.rubrics import Criterion
from tests.growth import is_linear

SAME, JUDGE = Equivalence(), RuleJudge()


def outcome(gold: str, response: str) -> Outcome:
    criterion = Criterion("right", "right", check={"kind": "answer", "expected": gold})
    return JUDGE.judge([JudgeRequest(({"role": "user", "content": "?"},), response, (criterion,))])[0][0].outcome


def thousands(n, sign):
    return f"{n:,}".replace(",", sign)


def mixed(n, d, whole, a="\\frac{{{}}}{{{}}}"):
    return f"{'-' if n < 0 else ''}{abs(n) // d}{whole}" + a.format(abs(n) % d, d)


def power(n):
    return str(n).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


# Of each kind: how to draw a value, a neighbour of it, and its writings; the gold one first, then three others or more.
KINDS = [
    (lambda r: r.randint(-999, 999), lambda v: v + 1,
     lambda v: [f"{v}", f"{v}.0", f"x = {v}", rf"\frac{{{2 * v}}}{{2}}", f"**{v}**"]),
    (lambda r: r.randint(10**3, 10**7), lambda v: v + 1000,
     lambda v: [f"{v}", *(thousands(v, sign) for sign in (",", r",\!", "\u202f", r"\,", "{,}", " "))]),
    (lambda r: (r.choice((1, -1)) * r.randint(1, 49), r.choice((7, 11, 13, 50, 64))), lambda v: (-v[0], v[1]),
     lambda v: [rf"\frac{{{v[0]}}}{{{v[1]}}}", rf"\dfrac{{{v[0]}}}{{{v[1]}}}", f"{v[0]}/{v[1]}", rf"\frac{{{2 * v[0]}}}{{{2 * v[1]}}}"]),
    (lambda r: r.choice((1, -1)) * r.randrange(1, 999, 2), lambda v: v + 2,
     lambda v: [f"{v / 8}", rf"\frac{{{v}}}{{8}}", f"{v / 8}0", f"{v}/8"]),
    (lambda r: (r.choice((1, -1)) * (r.randint(1, 9) * 8 + r.choice((1, 3, 5, 7))), 8), lambda v: (v[0] + 8, 8),
     lambda v: [mixed(*v, ""), mixed(*v, " "), mixed(*v, " ", "{}/{}"), mixed(*v, "").replace("frac", "dfrac"),
                rf"\frac{{{v[0]}}}{{8}}", f"{'-' * (v[0] < 0)}{abs(v[0]) // 8}{'⅛⅜⅝⅞'[abs(v[0]) % 8 // 2]}"]),
    (lambda r: r.randint(2, 99), lambda v: v + 1,
     lambda v: [rf"{v}\%", f"{v}%", f"{v} percent", rf"{v}\text{{ percent}}", f"{v}"]),
    (lambda r: r.randint(101, 9999), lambda v: v + 10,
     lambda v: [form.format(v / 100) for form in (r"\${:.2f}", "{:.2f}", r"\$ {:.2f}", "{:.2f} dollars", r"{:.2f}\text{{ dollars}}")]),
    (lambda r: r.randint(1, 359), lambda v: 360 - v if v != 180 else 90,
     lambda v: [rf"{v}^\circ", f"{v}°", rf"{v}^{{\circ}}", f"{v} degrees", f"{v}"]),
    (lambda r: r.randint(2, 500), lambda v: v + 1,
     lambda v: [rf"{v}\text{{ cm}}", f"{v} cm", rf"{v}\,\mathrm{{cm}}", f"{10 * v} mm", f"{v}"]),
    (lambda r: r.randint(2, 500), lambda v: v + 1,
     lambda v: [rf"{v}\text{{ cm}}^2", f"{v} cm²", f"{v} square centimeters", rf"{v}\ \text{{cm}}^{{2}}", f"{v} cm^2"]),
    (lambda r: (r.randint(10, 99), r.randint(-40, 40)), lambda v: (v[0], v[1] - 1),
     lambda v: [rf"{v[0] / 10} \times 10^{{{v[1]}}}", f"{v[0] / 10}e{v[1]}", rf"{v[0] / 10} x 10^{{{v[1]}}}",
                f"{v[0] / 10} × 10{power(v[1])}", rf"{v[0] / 10}\cdot 10^{{{v[1]}}}"]),
    (lambda r: (r.randint(-20, 20), r.randint(-20, 20)), lambda v: (v[0], v[1] + 1),
     lambda v: [f"({v[0]},{v[1]})", rf"\left({v[0]}, {v[1]}\right)", f"( {v[0]} , {v[1]} )", rf"({v[0]},\ {v[1]}.0)"]),
    (lambda r: sorted(r.sample(range(-20, 20), 3)), lambda v: [v[0], v[1], v[2] + 1],
     lambda v: ["{},{},{}".format(*v), f"{v[2]}, {v[1]} and {v[0]}", rf"\{{{v[1]}, {v[0]}, {v[2]}\}}",
                r"\left\{{{},{},{}\right\}}".format(*v)]),
    (lambda r: (r.randint(-20, 0), r.randint(1, 20), *r.choice(("()", "[]", "(]", "[)"))), lambda v: (v[0], v[1], "(["[v[2] == "("], v[3]),
     lambda v: [f"{v[2]}{v[0]},{v[1]}{v[3]}", rf"\left{v[2]}{v[0]}, {v[1]}\right{v[3]}", f"{v[2]} {v[0]}, {v[1]}.0 {v[3]}",
                rf"x \in {v[2]}{v[0]},{v[1]}{v[3]}"]),
    (lambda r: r.choice("ABCDE"), lambda v: "ABCDEF"["ABCDE".index(v) + 1],
     lambda v: [rf"\text{{({v})}}", v, f"({v})", rf"\textbf{{({v})}}"]),
    (lambda r: r.choice(("Monday", "east", "Evelyn", "ellipse", "listen")),
     {"Monday": "Sunday", "east": "seat", "Evelyn": "Alice", "ellipse": "parabola", "listen": "silent"}.get,
     lambda v: [rf"\text{{{v}}}", v, v.lower(), rf"\mathrm{{{v}}}"]),
    (lambda r: (r.randint(2, 30), r.choice((2, 3, 5, 7))), lambda v: (v[0] + 1, v[1]),
     lambda v: [rf"{v[0]}\sqrt{{{v[1]}}}", f"{v[0]}√{v[1]}", rf"{v[0]}\sqrt{v[1]}", rf"{v[0]} \sqrt {v[1]}"]),
    (lambda r: (2 * r.randint(1, 9) + 1, r.choice((2, 4, 5, 8))), lambda v: (v[0] + 2, v[1]),
     lambda v: [rf"\frac{{{v[0]}\pi}}{{{v[1]}}}", f"{v[0]}π/{v[1]}", rf"\dfrac{{{v[0]}\pi}}{{{v[1]}}}", rf"\frac{{{v[0]}}}{{{v[1]}}}\pi"]),
    (lambda r: (r.randint(2, 9), r.randint(1, 9)), lambda v: (v[0], v[1] + 1),
     lambda v: [f"x^2+{v[0]}x-{v[1]}", f"x²+{v[0]}x-{v[1]}", f"x^{{2}} + {v[0]}x - {v[1]}", f"{v[0]}x-{v[1]}+x^2"]),
    (lambda r: (r.randint(2, 9), r.randint(2, 9)), lambda v: (v[0], v[1] + 1),
     lambda v: [rf"{v[0]} \pm \sqrt{{{v[1]}}}", f"{v[0]}±√{v[1]}", rf"{v[0]}+\sqrt{{{v[1]}}}, {v[0]}-\sqrt{{{v[1]}}}",
                rf"x = {v[0]}\pm\sqrt{{{v[1]}}}"]),
]  # fmt: skip
WAYS = [
    lambda forms: rf"So the answer is $\boxed{{{forms[0]}}}$.",
    lambda forms: rf"From 3 and 4 we get \[\boxed{{\displaystyle {forms[0]}}}\] in 17 steps.",
    lambda forms: rf"\boxed{{ {forms[0].replace('-', '−')} }}", lambda forms: rf"\boxed{{{forms[1]}}}",
    lambda forms: rf"First \boxed{{0.123}}, no: $\boxed{{{forms[2]}.}}$",
    lambda forms: rf"\boxed{{{forms[3].replace('-', '−')}}} (2 ways).", lambda forms: rf"\boxed{{{forms[-1]}}}",
    lambda forms: rf"We try 12, then 13. Final Answer: ${forms[0]}$",
    lambda forms: f"**Final Answer:** {forms[1]}\n\nThat took 1234 steps.", lambda forms: f"We add 7 and 8.\n#### {forms[2]}",
    lambda forms: rf"Final Answer: The final answer is \({forms[0]}\). I hope it is correct.",
    lambda forms: rf"```\boxed{{**{forms[0]}**}}```",
]  # fmt: skip


def test_five_hundred_golds_in_twelve_ways_and_their_wrong_neighbours():
    draw, wrong = random.Random(15), []
    for number in range(500):
        value, neighbour, writings = KINDS[number % len(KINDS)]
        value = value(draw)
        forms, others = writings(value), writings(neighbour(value))
        for way in WAYS:
            if outcome(forms[0], way(forms)) is not Outcome.MET:
                wrong.append((forms[0], way(forms), "not met"))
            if outcome(forms[0], way(others)) is not Outcome.NOT_MET:
                wrong.append((forms[0], way(others), "met"))
    assert (len(WAYS), wrong) == (12, [])


# The first of a row and each other one are the same answer; three blanks end a row.
EQUAL = r"""
7|007|7.0   5/3|1 2/3|1 2/3.|1\frac{2}{3}|1 \frac{2}{3}   x^2+2x+1|(x+1)^2   2\sqrt{2}|\sqrt{8}   1|\sin^2 x + \cos^2 x
5|5.|$5$|*5*|`5`|**5**|\boxed{5}|+5|{5}|５|٥|3+2=5|5=x   -3/2|−1½|-1 1/2|-1\frac{1}{2}|–1.5|-1 \tfrac12|\frac{-3}{2}|\frac{3}{-2}
\frac{1}{2}|½|.5|\frac12|\frac 1 2|1⁄2|50\%|0.50   5000|5 000|5\,000|5{,}000|5'000|5 thousand|5.0e+3
10^{-7}|1e-7|0.0000001|1 x 10^-7|10⁻⁷|1*10^(-7)   6.02\times10^{23}|6.02e23|6.02E+23|6.02 x 10^{23}|6.02 × 10²³|602000000000000000000000
45|45°|45º|45\degree|45\text{ degrees}   \infty|∞|+\infty|infinity   \sqrt{2}|√2|\sqrt2|sqrt(2)|2^{1/2}|\frac{2}{\sqrt{2}}
x^2|x²|x**2|x\cdot x   \emptyset|\varnothing|∅   64|***64***|__64__|\mathbf{64}|\text{64}   \$36|36|36 dollars|USD 36|$\$36$|36 USD
\$18.90|18.9|1890 cents|$18.90   \$1.5 million|1500000   12.5\%|12.5|0.125|12.5 percent   5 km|5000 m|5 kilometers|5
24\text{ cm}^2|24 square centimeters|24 cm²|0.0024 m^2   60\text{ mph}|60 miles per hour|60 mi/h   1 hour|60 minutes|3600 s
\$18 per day|18 dollars per day|$18/day   3 L|3000 cm^3   30^\circ\text{C}|30 °C|30 degrees Celsius   1,2,3|3, 2 and 1|\{1,2,3\}|x=1,2,3
2,-2|\pm 2|±2|2 or -2|x=2 or x=-2   1,2,\ldots,n|1, 2, ..., n|1, 2, \dots, n   (1,2)|\left(1,\ 2\right)|(x,y)=(1,2)
[1,\infty)|[1,∞)|x\ge1|x ≥ 1   0.\overline{3}|1/3|0.333...|0.(3)|0.333333|0.33333333   \pi|3.141593|3.14159265
3.33333e-8|\frac{1}{30000000}   0.3|0.30000000000000004|0.1+0.2   \frac{1}{2^{99}}|2^{-99}   3:2|3/2|6:4   1011_2|1011_{2}|1011₂|11_{10}
3:00 \text{ p.m.}|3:00 PM|3 pm   \text{(A)}|A|(A)|A.|\textbf{A}   y=2x+1|2x+1|y = 1+2x   y^2=4x|4x=y^2|2y^2=8x
x=5\text{ cm}|5 cm|x = 50 mm   (-\infty,2)\cup(3,\infty)|(3,∞)∪(−∞,2)   ab|b\cdot a|ba
12{,}000{,}023|12,000,023|12000023|11,\! 999,\! 999+24   \$1,200|US$1,200|US\$1200|$1,200.00
19, 46, \text{ and } 82|19, 46, and 82|82, 46 and 19   5\text{ mW}|5 mW|0.005 W   3\text{ MPa}|3 MPa|3000 kPa
4.7\text{ k}\Omega|4.7 kΩ|4700 ohms   9.8\text{ m/s}^2|9.8 \frac{m}{s^2}|9.8\,\frac{\text{m}}{\text{s}^2}
x<-3\text{ or }x>5|(-\infty,-3)\cup(5,\infty)|x > 5 or x < -3|x<-3 \lor 5<x   [2,5)|2\le x<5|5 > x ≥ 2|x\in[2,5)
(2,\infty)|\{x : x > 2\}|\{x \mid x>2\}|\{x \in \mathbb{R} \mid 2 < x\}|x > 2   \langle 1,2,3\rangle|(1,2,3)|⟨1,2,3⟩
\sqrt{\frac{1}{n}}|\frac{1}{\sqrt{n}}|n^{-1/2}   n!|n(n-1)!   \cos 60^\circ|\frac12|cos 60°   \ln 2|\log_e 2   \log 2|\lg 2|\log_{10}2
0.1\overline{23}|\frac{122}{990}|0.1232323...   1:4|1 to 4|1\text{ to }4   V_1:V_2=11:21|11:21   \textbf{(C)}\ 12|C|(C)|12|(C) 12
x_1=1,\quadx_2=2|1,2
"""
# The first of a row is another answer than each other one.
DIFFERENT = r"""
6.63\times10^{-34}|9.11\times10^{-31}|6.63\times10^{-33}|0   4e-7|1e-7|4e-8|0   \frac{1}{2^{99}}|\frac{1}{2^{98}}|0
\frac{1}{2004!}|\frac{1}{2006!}   \frac{\sqrt2}{2^{99}}|\frac{\sqrt2}{2^{98}}   \frac{x}{2^{99}}|\frac{x}{2^{98}}|0   e^{-50}|e^{-51}
\frac{2^{2005}+1}{3 \cdot 2^{2006}}|\frac{1}{3 \cdot 2^{2006}}   (10^{-8},1)|(10^{-9},1)|(0,1)   \{10^{-8},\sqrt2\}|\{10^{-9},\sqrt2\}
[10^{-8},\pi)|[10^{-9},\pi)   x=10^{-8}|10^{-9}|x=10^{-9}   \begin{pmatrix}10^{-8}\\1\end{pmatrix}|\begin{pmatrix}10^{-9}\\1\end{pmatrix}
100000000000000000001|100000000000000000000|10^{20}   12345.67|12345.7|12345.68   1e10|1.0000001e10   3.141593|3.1416|3.141592
0.3|0.3000001|1/3   act|cat|\text{cat}   BDAC|ABCD|DBAC   B,D,A,C|A,B,C,D   listen|silent   1/3|0.33|1/2   x|y|x+1   x+1|x+2
\sqrt{2}|\sqrt{3}|1.41   Monday|Tuesday   999999999999|999999999998   111111111111111111111111111111|111111111111111111111111111112
5 km|5 cm|500 m|5 km^2|5 kg|5 miles   5 m|5 s|5 m/s   1 N|1 J|1 kg m^2/s^2   2|three|twenty   \$5|5 cents|5 euros   45°|46°|45 radians|45%
50\%|5\%|0.05   1,2,\ldots,n|1,3,\ldots,2n-1|1, 2, \ldots, m   1+2+\ldots+n|1+3+\ldots+n   1:2:3:\ldots|1:4:9:\ldots   1 1/2|1|1/2|11/2
½|1½|¼   1,000|1|1,0   (1,2)|(2,1)|[1,2]|(1,2,3)|1<x<3   \pm 2021|2021|-2021   n=2,3,4|n=1,2,3   D=(0,1)|D=(0,1.5)
19, 46, \text{ and } 82|21, 36, and 82   1-\frac{1}{\mathrm{e}}|1+\frac{1}{\mathrm{e}}
F_n = \sum_{k=0}^{n-1} F_k F_{n-k-1}|F_n = \sum_{k=0}^{n-2} F_k F_{n-k-2}   12:00|1:00|12:01   3,5|3.5|35   3{,}5|3,5|35   0,500 kg|500 kg
10 a.m.|10 p.m.   52_8|52_9   x=5|y=5|x=6   x_1=2|x_2=2   x^2+1=0|x^2+2=0   2x+3=0|2x-3=0   5|5x|5t|x=6|2x+z=5   2 3|5|6|23   x²|x2|x³
12,000,023|12,000|23|12,000,000   5 mW|5 MW|5 W   3 MPa|3 kPa|3 mPa   19, 46, \text{ and } 82|19, 46|19, 82
x<-3\text{ or }x>5|-3<x<5|x<-3|(-\infty,-3]\cup[5,\infty)   (2,\infty)|x\ge2|x<2|\{x : x < 2\}   x>3|y>3|x>-3|3   xyz|\sqrt{x^2y^2z^2}
\sqrt{x^2}|x   \cos 60^\circ|\cos 30^\circ|\cos 60   \textbf{(C)}\ 12|D|13|(D) 12   1:4|4 to 1   \text{up}|pu|\text{pu}   NaN|0|1
"""


def rows(table):
    lines = table.strip().replace("   ", "\n").splitlines()
    return [(first, other) for line in lines for first, *others in [line.split("|")] for other in others]


@pytest.mark.parametrize(("table", "same"), [(EQUAL, True), (DIFFERENT, False)], ids=["equal", "different"])
def test_what_people_write(table, same):
    wrong = [pair for pair in rows(table) if not SAME(*pair) is SAME(*reversed(pair)) is same]
    judged = {pair: outcome(pair[0], rf"\boxed{{{pair[1]}}}") is Outcome.MET for pair in rows(table) if pair[0] != "NaN"}
    assert wrong + [pair for pair, met in judged.items() if met is not same] == []


STATED = [
    ("42", "We had 7, then 9. The answer is 42. Let me check: 6*7."), ("42", "**Final Answer**\n\n$42$\n\nI used 3 steps."),
    ("42", "### Final Answer\n42"), ("42", "The answer is 41. Wait, no. The answer is 42."), ("42", "The answer is not 41. It is 42."),
    ("42", "4+38=42\n#### 42"), ("42", "<answer>x = 42</answer> in 5 steps"),
    ("42", "The answer to question 7 is therefore\n\\[\n42\n\\]\nDone in 5 minutes."), ("42", "The answer is approximately 42 metres."),
    ("42", "I say 41, no: 42"), ("42", "Answer: **42**. We used 3 steps."), ("42", "42"), ("36", "The answer is $36 in total over 3 days."),
    ("36", "So she pays $12 + $24 = $36."), ("\\$18.90", "Final Answer: \\$18.90"), ("64", "so we get **64**."), ("64", "that is `64`"),
    ("3/2", "The answer is 1 1/2 cups of the 3."), ("3/2", "It is 1½."), ("-5", "The answer is −5."),
    ("5000", "There are 5\u202f000 people."), ("6.02e23", "The answer is 6.02 x 10^23 molecules."), ("1e-7", "It weighs 1e-7 g."),
    ("1,2,3", "The answer is 1, 2, and 3."), ("1,2", "The answer is $x=1$ or $x=2$."), ("(1,2)", "The answer is (1, 2)."),
    ("5 km", "The distance is 5 km."), ("x+1", "So the final answer is $x+1$, not 5."), ("B", "The correct answer is (B) 12 apples."),
    ("B", "**Answer: (B)** because 4 < 5"), ("B", "**B**"), ("B", "I choose B, not A."), ("B", "So I would pick option (B), since 4 < 5."),
    ("3.5 kg", "After 4 steps I get 3,5 kg."), ("42", "La respuesta es 42, usando 3 pasos."), ("42", "La réponse est : 42. En 3 étapes."),
    ("42", "Ответ: 42, за 3 шага."), ("Paris", "The answer is Paris."), ("11", "答案是11。"), ("5", r"So $\boxed{5}$, and not 7."),
    ("1,-2", r"The roots are $\boxed{1}$ and $\boxed{-2}$."), ("(2,2),(6,2)", r"$$\boxed{(2, 2)} \quad \text{and} \quad \boxed{(6, 2)}$$"),
    ("2", "\\boxed{1}\n\n\\boxed{2}"), ("34", "Final Answer: The largest $n$ is 34."), ("5", "Final Answer: $n$ = 5\n\nThat took 7 steps."),
    ("5", "Final Answer\n-----\n5"), ("8", "The answer is not 7 but 8."), ("C", "The correct choice is C."),
    ("C", "The answer is option C."), ("C", "So the answer is choice (C), since x>2."), ("C", "**Answer: C. 12 apples**"),
    ("C", "I pick (C)."), ("(2,3)", "They meet at (2, 3)."), (r"2\pi", "The period is 2π."), (r"3+2\sqrt{2}", "The sum is 3 + 2√2."),
    (r"\sqrt{17}", r"We get \sqrt{17}"), (r"\frac{3}{4}", r"We get \frac{3}{4}."),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"The vector is $ \begin{bmatrix}1 \\ 2\end{bmatrix} $."), ("x+2", "So we get $ x + 2 $."),
    ("Paris", "Paris"), ("New York", "New York."),
]  # fmt: skip
UNSTATED = [
    ("41", "I say 41, no: 42"), ("42", "I got 42, but the final answer is 43."), ("5", "The answer is not 5."), ("5", "none"),
    ("3", "Final Answer: 4\n3 steps"), ("2", "The answer is 1/2."), ("1", "The answer is 1 1/2."), ("act", "The answer is cat."),
    ("A", "A day has 24 hours."), ("B", "The answer is (A). B is wrong."), ("12", r"\boxed{12"), ("5 km", "The answer is 5 cm."),
    ("5", "5 apples were there. The answer is 6 apples."), ("1", r"The roots are $\boxed{1}$ and $\boxed{-2}$."),
    ("-2", r"The roots are $\boxed{1}$ and $\boxed{-2}$."), ("7", "The answer is not 7 but 8."), ("3", "They meet at (2, 3)."),
    ("2", "The period is 2π."), ("17", r"We get \sqrt{17}"), ("4", r"We get \frac{3}{4}."), ("23", "There are 12,000,023 of them."),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "text", "met"), [(*row, True) for row in STATED] + [(*row, False) for row in UNSTATED])
def test_where_an_answer_stands(gold, text, met):
    assert outcome(gold, text) is (Outcome.MET if met else Outcome.NOT_MET), stated_answer(text)


NO_ANSWER = r"`expected` must be (an answer, got .*, which is (no number|a formula that is not whole)|a number or formula)"
BROKEN = "which is a formula that is not whole"


@pytest.mark.parametrize(("gold", "message"), [
    *((gold, NO_ANSWER) for gold in ("NaN", "-nan", r"\text{NaN}", r"So $\boxed{NaN}$.", "(1, NaN)", "[nan]", "$$$", "{{{", "#### ", " ")),
    *((gold, BROKEN) for gold in (r"\frac{", r"\frac{1}", r"\frac{\sqrt{2}}", r"\frac{1}{}", r"\sqrt", r"x^{}", r"\left( 1")),
    *((gold, BROKEN) for gold in (r"So $\boxed{5", r"1,\frac{1}", r"\text{a")),
])  # fmt: skip
def test_a_gold_that_is_no_answer_or_breaks_off_is_refused(gold, message):
    with pytest.raises(ValueError, match=message):
        outcome(gold, r"\boxed{5}")


def test_a_gold_in_few_braces_is_whole():
    for gold in (r"\frac12", r"\frac\pi2", r"\left\{ 3 \right.", r"\sqrt x", r"\{1, 2\}", r"\dfrac 1 2", r"\$36", "a_n"):
        assert outcome(gold, rf"\boxed{{{gold}}}") is Outcome.MET, gold


MARKS = [*"01x+-/=^_(){}[]\\,.: $%|!√½²°−“", r"\frac{", r"\sqrt", r"\text{", r"\pm", " km", "...", "Answer: ", "e5"]
PIECES = st.lists(st.sampled_from(MARKS), max_size=12)


@given(PIECES.map("".join) | st.text(max_size=20), PIECES.map("".join) | st.text(max_size=20))
def test_any_text_is_read_and_compares_alike_in_either_order(a, b):
    assert same_answer(read_answer(a), read_answer(b)) is same_answer(read_answer(b), read_answer(a))
    assert same_answer(read_answer(a), read_answer(a)) is not False
    assert stated_answer(a) is None or isinstance(gold_answer(b), str)


@pytest.mark.parametrize(
    "piece", ["a", "1 ", "1,000,", "$", "\\(", "\\[", "(", "**", "`", "\n", "cm^2 ", "answer is not ", "\\text{", "√", "#### "]
)
def test_no_text_takes_long_to_read(piece):
    assert is_linear(lambda size: stated_answer(piece * (size // len(piece)) + "!"), 50_000)
    same_answer(read_answer((piece * 1000)[:1000]), read_answer(("1" + piece * 1000)[:1000]))


@given(st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=999), st.integers(-300, 300))
def test_numbers_are_one_at_every_size_or_at_none(value, size):
    numbers = [f"{float(part):.15e}" for part in (value, value * Fraction(1000001, 1000000), value * Fraction(1000003, 1000000))]
    scaled = [f"{number[: number.index('e')]}e{int(number[number.index('e') + 1 :]) + size}" for number in numbers]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert SAME(numbers[i], numbers[j]) is SAME(scaled[i], scaled[j]) is (value == 0)
