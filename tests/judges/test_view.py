"""Words, sentences, characters, marks and markup of many scripts, by hand."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_focal.judges.rules.markup import read_markup
from lightning_focal.judges.rules.script import asks, count_characters, count_emoji, count_marks, fold, split_words
from lightning_focal.judges.rules.view import ResponseView, occurrences


@pytest.mark.parametrize(("text", "words"), [
    ("Don't, won’t - over-think a_b x--y Élan наука", ["Don't", "won’t", "over-think", "a_b", "x", "y", "Élan", "наука"]),
    ("3,5 or 3.5 or 1,000.50 is 12:30", ["3,5", "or", "3.5", "or", "1,000.50", "is", "12", "30"]),
    ("the U.S., e.g. Ph.D. and/or C++", ["the", "U.S", "e.g", "Ph.D", "and", "or", "C"]),
    ("See https://a.org/b.c?d=1&e=%20#f, me@x.org.", ["See", "https://a.org/b.c?d=1&e=%20#f", "me@x.org"]),
    ("Wait...what? Yes—no; 10–20", ["Wait", "what", "Yes", "no", "10", "20"]),
    ("non\u2011breaking well\u2010known Donau\u00addampf", ["non\u2011breaking", "well\u2010known", "Donau\u00addampf"]),
    ("Donaudampfschifffahrtsgesellschaft l'été aujourd’hui", ["Donaudampfschifffahrtsgesellschaft", "l'été", "aujourd’hui"]),
    ("½ cup 👍🏽 of 👨‍👩‍👧 tea 1️⃣ ©", ["½", "cup", "of", "tea"]), ("می\u200cخوانم، كتاب", ["می\u200cخوانم", "كتاب"]),
    ("\u200fשלום\u200f צה\"ל ג׳ירפה", ["שלום\u200f", 'צה"ל', "ג׳ירפה"]), ("喝水2杯 ok", ["喝", "水", "2", "杯", "ok"]),
    ("コーヒーを飲む", ["コーヒー", "を", "飲", "む"]), ("น้ำดี", ["น้ำ", "ดี"]), ("물을 마셔요", ["물을", "마셔요"]), ("ሰላም፡ልጅ።", ["ሰላም", "ልጅ"]),
    ("Ինչպե՞ս եք", ["Ինչպե՞ս", "եք"]), ("क्षत्रिय १२.५", ["क्षत्रिय", "१२.५"]),
])  # fmt: skip
def test_words(text, words):
    assert split_words(text) == words
    assert len(split_words(unicodedata.normalize("NFD", text))) == len(words)


@pytest.mark.parametrize(("text", "sentences"), [
    ("...", []), ("No stop", ["No stop"]), ("One. Two! Three? Four… Five", ["One.", "Two!", "Three?", "Four…", "Five"]),
    ("It is 3.5 m. Fine.", ["It is 3.5 m. Fine."]), ("It is 3.5 km. Fine.", ["It is 3.5 km.", "Fine."]),
    ("Ask Mr. Lee, e.g. Now.", ["Ask Mr. Lee, e.g. Now."]),
    ("Milk, etc. are sold. Milk, etc. Then go.", ["Milk, etc. are sold.", "Milk, etc.", "Then go."]),
    ("The answer is no. Then rest. See No. 5.", ["The answer is no.", "Then rest.", "See No. 5."]),
    ("J. K. Rowling met John F. Kennedy. Take vitamin C. Rest.", ["J. K. Rowling met John F. Kennedy.", "Take vitamin C.", "Rest."]),
    ("At 5 p.m. we left the U.S. He stayed.", ["At 5 p.m. we left the U.S.", "He stayed."]),
    ("Er kam am 3. des Monats, z. B. um 5. Gut.", ["Er kam am 3. des Monats, z. B. um 5.", "Gut."]),
    ("Wait... what?! See a.b.org. Yes.", ["Wait... what?!", "See a.b.org.", "Yes."]), ("Wrapped\nline. Next", ["Wrapped\nline.", "Next"]),
    ("# Title\n\nText\n- one\n- two. Three", ["Title", "Text", "one", "two.", "Three"]),
    ("Title\n===\n\n> Quoted. **Bold.** _Done_!", ["Title", "Quoted.", "Bold.", "Done!"]),
    ("Run:\n\n```py\nx = 1. \ny = 2\n```\n\nThen `a. B` ends.", ["Run:", "Then `xxxx` ends."]),
    ("| a | b |\n|---|---|\n| 1. x | 2 |", ["a | b", "1. x | 2"]), ("• Eins\n• Zwei", ["Eins", "Zwei"]),
    ('"Go!" she said. (Then left.) Bye', ['"Go!" she said.', "(Then left.)", "Bye"]),
    ("„Ja.“ Er ging. »Nein!« Sie blieb.", ["„Ja.“", "Er ging.", "»Nein!«", "Sie blieb."]),
    ("好。很好！「行。」他说……走了。３．５米", ["好。", "很好！", "「行。」", "他说……走了。", "３．５米"]),
    ("真的吗?是的.", ["真的吗?", "是的."]),
    ("पानी पियो। आराम करो॥", ["पानी पियो।", "आराम करो॥"]), ("كيف حالك؟ بخير. یہ ہے۔ہاں", ["كيف حالك؟", "بخير.", "یہ ہے۔", "ہاں"]),
    ("ሰላም። እንዴት፧ ደህና፡፡ እሺ", ["ሰላም።", "እንዴት፧", "ደህና፡፡", "እሺ"]), ("Բարև։ Ինչպե՞ս եք: Լավ", ["Բարև։", "Ինչպե՞ս եք:", "Լավ"]),
    ("Πού είναι; Εδώ. Let α; then stop.", ["Πού είναι;", "Εδώ.", "Let α; then stop."]), ("ខ្ញុំ។ អ្នក", ["ខ្ញុំ។", "អ្នក"]),
    ("물을 마셔요. 쉬세요!", ["물을 마셔요.", "쉬세요!"]), ("Great! 😊 Let's go.", ["Great!", "😊 Let's go."]),
])  # fmt: skip
def test_sentences(text, sentences):
    assert ResponseView((), text).sentences == sentences


@pytest.mark.parametrize(("text", "characters", "emoji"), [
    ("abc\r\n", 4, 0), ("e\u0301", 1, 0), ("👨‍👩‍👧👍🏽🇩🇪🏴󠁧󠁢󠁥󠁮󠁧󠁿1️⃣❤️", 6, 6), ("नमस्ते", 3, 0), ("© ™ ✔ ↔ ☎\ufe0e", 9, 0), ("✅⚠️", 2, 2),
    ("각", 1, 0),
])  # fmt: skip
def test_characters_and_emoji(text, characters, emoji):
    assert (count_characters(text), count_emoji(text)) == (characters, emoji)


def test_marks_of_every_script():
    question, exclamation = ("? ؟ ？ ፧ ՞ ⁇ ¿ Πώς;", "; : Let α; ‹ ⩻"), ("! ！ ՜ ‼ ¡", "ǃ ⚠")
    both = {"QUESTION MARK": question, "EXCLAMATION MARK": exclamation, "COMMA": (", ، 、 ， ፣ ՝ ߸", "; · ș ‚ 🄂")}
    for name, (marks, none) in both.items():
        assert (count_marks(marks, name), count_marks(none, name)) == (len(marks.split()), 0)


EQUAL = [
    ("ﬁne…\u00a0x", "fine... x"), ("ＡＢＣ，１", "ABC,1"), ("5\u202f000\u2009km", "5 000 km"),
    ("non\u2011stop\u2010go \u22125", "non-stop-go -5"), ("don’t “x” donʼt", "don't \"x\" don't"),
    ("Donau\u00addampf\u200b\u200e\ufeff", "Donaudampf"), ("می\u200cخوانم ـ", "میخوانم "), ("Straße", "STRASSE"), ("ΟΔΟΣ", "οδος"),
    ("𝐛𝐨𝐥𝐝", "bold"), ("ｶﾞ", "ガ"), ("ẛ̣", "\u017f\u0323\u0307"),
]  # fmt: skip
DIFFERENT = [("2²", "22"), ("½", "1/2"), ("–", "-"), ("—", "-"), ("①", "1"), ("é", "e")]


def test_equal_and_different_writings():
    assert [pair for pair in EQUAL if fold(pair[0]) != fold(pair[1])] == []
    assert [pair for pair in DIFFERENT if fold(pair[0]) == fold(pair[1])] == []


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_canonically_equal_texts_are_compared_as_one(text):
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, text)
        assert fold(other) == fold(text)
        assert fold(other, ignore_case=False) == fold(text, ignore_case=False)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="aÉж1_ '’-.,:/@\n\"(…", max_size=60))
def test_the_quick_words_and_sentences_are_those_of_every_script(text):
    # a word of another script takes the long way and must change nothing else
    assert split_words(text + " कर")[:-1] == split_words(text)
    slow = ResponseView((), text + "\n\nकर").sentences
    assert slow[:-1] == ResponseView((), text).sentences


def test_lines_and_paragraphs():
    view = ResponseView((), "a\nb\n\n \nc\n")
    assert (view.lines, view.paragraphs) == (["a", "b", "c"], ["a\nb", "c"])
    assert ResponseView((), "\n").paragraphs == []
    assert len(ResponseView((), "Run:\n```\na\n\nb\n```\n\nDone.").paragraphs) == 2


FENCED = "````md\n```\n# a\n- b **c** [name]\n```\n````"


@pytest.mark.parametrize(("text", "expected"), [
    ("# A\n\nB\n---\n\n## \n#C\n   ### D ###", {"headings": [1, 2, 3]}), (FENCED, {"fences": [("md", "```\n# a\n- b **c** [name]\n```")]}),
    ("~~~\n# a\n```\n~~~", {"fences": [("", "# a\n```")]}), ("```Python title\nx\n```\n```\nopen", {"fences": [("python", "x")]}),
    ("```\n- a", {"fences": []}), ("1. Do:\n   ```sh\n   # a\n   ```\n2. Then", {"numbered": 2, "fences": [("sh", "# a")]}),
    ("Text\n\n    # a\n    - b", {"others": 1}), ("<!--\n# a\n-->\n\n<div>\n- b\n</div>", {}),
    ("- a\n  - b\n    1. c\n- [ ] d\n-\n+ e\n* f\n-g", {"bullets": 5, "numbered": 1}),
    ("> - a\n> # b", {"bullets": 1, "headings": [1], "others": 1}), ("Buy:\n• a\n• b\n•c", {"bullets": 2}),
    ("2024 was dry.\n\n2024. It was.\n\n---\n***", {}),
    ("**a** __b__ __init__ *c* `**d**` \\*\\*e\\*\\* a ** b ** c", {"bold": 2, "others": 2}), ("**注意：**请喝水", {"bold": 1}),
    ("a**2 is not b ** 2", {}), ("a | b\n--|--\n1 | 2", {"tables": 1}), ("a - b\n---|---", {}),
    ("Dear [name], [Your Address] and ［姓名］", {"placeholders": 3}),
    ("See [1], [2, 3], [^1], [a](b), ![c](d), [x] [ ] [0, 1] (0, 1] [a, b] [Smith, 2020] x[i] [...] \\[ E = m \\] [\"q\"]", {"others": 2}),
    ("[a]: https://a.org\n\nSee [a] and [b][a].", {"others": 2}),
])  # fmt: skip
def test_markup(text, expected):
    found = read_markup(text)
    counted = ("headings", "bold", "bullets", "numbered", "tables", "placeholders", "others", "fences")
    assert {name: getattr(found, name) for name in counted if getattr(found, name)} == {k: v for k, v in expected.items() if v}


def test_occurrences_are_whole_words():
    text = fold("Tea, teapot, TEA-time; don’t _tea c++ and c; करना कर 身体健康 カタカナのカ Ré")
    phrases = ("tea", "don't", "tea-time", "c++", "कर", "健康", "カ", "カタカナ", "ré", "r")
    assert [occurrences(text, fold(phrase)) for phrase in phrases] == [2, 1, 1, 1, 1, 1, 1, 1, 1, 0]


def test_the_prompt_is_the_last_user_turn_and_questions_end_in_a_question_mark_of_their_script():
    turns = (("user", "One"), ("assistant", "Two"), ("user", "3"), ("system", ""))
    chat = [{"role": role, "content": text} for role, text in turns]
    assert (ResponseView(chat, "").prompt_words, ResponseView(chat[3:], "").prompt_words) == (("3",), ())
    asked = ("Why?", "“Why?”", "Really?!", "كيف؟", "何？」", "Πού;", "Ինչպե՞ս եք։", "እንዴት፧")
    assert all(map(asks, asked))
    assert not any(map(asks, ("No.", "Why? No.", "好。", "α;", "")))
