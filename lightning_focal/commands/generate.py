"""``lightning_focal rubrics --generate``: questions in, a rubric for each out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lightning_focal.commands.writing import (
    add_model_options,
    add_reply_options,
    check_writing,
    make_writer,
    progress_of,
    tries_of,
)
from lightning_focal.data import PairRow, read_questions
from lightning_focal.files import write_text
from lightning_focal.judges import HTTPJudge, Judge, JudgeRequest, LocalJudge, Outcome, verdicts_to_scores
from lightning_focal.parsing import CommandParser
from lightning_focal.rephrasing import Journal, Rejection, Tally, work_through
from lightning_focal.rephrasing.journal import beside
from lightning_focal.rubrics import Criterion, Rubric, RubricError, RubricRow, to_row
from lightning_focal.rubrics.proposals import PROPOSAL_FORMAT, REASONS, proposal_chat, read_proposals, screen
from lightning_focal.servers import ChatReply
from lightning_focal.terminal import Cells, make_console
from lightning_focal.thoughts import is_empty, split_thought
from lightning_focal.types import Message

__all__ = ["generate_command", "parser"]

_WANTED = {
    "good": "Answer as well as you can: right, complete, to the point.",
    "bad": "Answer in a hurry and without care: leave out a part of what is asked for, be vague, check nothing.",
}
"""What the model is told where an answer of this quality is not given (ours)."""
_COLUMNS = {"good": ("chosen", "good"), "bad": ("rejected", "bad")}
_MEANINGS = {**REASONS, "empty": "an answer that was asked for came empty", "refused": "the server refused the question"}


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = CommandParser(
        prog="lightning_focal rubrics",
        description="Write a rubric for every question: a model proposes criteria, a judge tries them on good and bad answers, and "
        "those that prefer the good ones are kept. The same command again goes on where it stopped.",
    )
    add, columns = made.add_argument, "`chosen` (or `good`, else the answer) and `rejected` (or `bad`)"
    add("--generate", type=str, required=True, help=f"Questions: .jsonl, .json or .parquet; {columns} are good and bad answers.")
    add(
        "--out",
        type=str,
        required=True,
        help="Rubrics to write, .jsonl in the plain format; the others go to OUT.rejected.jsonl.",
    )
    add_model_options(made)
    add("--most", type=int, default=6, help="Criteria of a rubric; as many and half as many more are proposed.")
    add("--answers", type=int, default=2, help="Good, and bad, answers the model writes to a question that has none.")
    add("--attempts", type=int, default=3, help="Replies without a list of criteria before a question is dropped.")
    add("--limit", type=int | None, default=None, help="Only the first so many questions; raise it later to go on.")
    add_reply_options(made)
    made.add_subclass_arguments(
        Judge, "judge", as_group=False, required=False, help="Who tries criteria; the same model by default."
    )
    add("--on_bad_row", type=str, default="error", help="error stops at a malformed row of the input, skip leaves it out.")
    return made


@dataclass
class _Question:
    """A row with its answers: those given, and the journal's ids of those that are written."""

    row: PairRow
    answers: dict[str, list[str]]
    written: dict[str, list[str]]

    @classmethod
    def of(cls, row: PairRow, count: int) -> _Question:
        """Take the answers of a row; ``RubricError`` where a column holds something else."""
        answers = {kind: _given(row, names) for kind, names in _COLUMNS.items()}
        if not answers["good"] and row.answer:
            answers["good"] = [row.answer]
        written = {kind: [f"{kind} {i + 1}/{row.id}" for i in range(0 if answers[kind] else count)] for kind in answers}
        return cls(row, answers, written)

    @property
    def asked(self) -> list[str]:
        """Ids of all that is written down of this question, in order."""
        return [*self.written["good"], *self.written["bad"], f"proposed/{self.row.id}", f"judged/{self.row.id}"]

    def finished(self, journal: Journal) -> bool:
        """Whether nothing is left to do: it was judged, or a part was dropped."""
        found = [journal.entries[name] for name in self.asked if name in journal.entries]
        return self.asked[-1] in journal.entries or any(entry["text"] is None for entry in found)

    def texts(self, journal: Journal) -> dict[str, list[str]] | None:
        """Good and bad answers; None where one that was asked for is not there."""
        entries = {kind: [journal.entries.get(name) for name in names] for kind, names in self.written.items()}
        if not all(entry and entry["text"] is not None for some in entries.values() for entry in some):
            return None
        return {kind: self.answers[kind] + [str(entry["text"]) for entry in some if entry] for kind, some in entries.items()}


def _given(row: PairRow, names: Sequence[str]) -> list[str]:
    """The answers under the first of the names that is there: a text, several, or a chat that ends in one."""
    name = next((name for name in names if row.extra.get(name) is not None), None)
    value: Any = [] if name is None else row.extra[name]
    if isinstance(value, list) and value and all(isinstance(turn, Mapping) for turn in value):
        value = value[-1].get("content") if value[-1].get("role") == "assistant" else None
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        expected = "an answer, a list of answers, or a chat that ends in an assistant's turn"
        raise RubricError(row.where, str(name), expected, row.extra[str(name)])
    return texts


def generate_command(args: list[str]) -> None:
    """Run the command; exit status 1 where questions are left undone or no rubric was made, 130 where it was interrupted."""
    made = parser()
    config = made.parse_args(args)
    source, out = Path(config.generate), Path(config.out)
    check_writing(config, source)
    for name in ("most", "answers"):
        if config[name] < 1:
            raise ValueError(f"`--{name}` must be >= 1, got {config[name]}")
    if not source.is_file():
        raise FileNotFoundError(f"`--generate` must be an existing file, got {config.generate!r} (looked in {Path.cwd()})")
    questions = [_Question.of(row, config.answers) for row in read_questions(source, on_bad_row=config.on_bad_row)]
    chosen = questions[: config.limit]
    spelt = json.loads(made.dump(config, format="json")).get("judge")
    judge = made.instantiate_classes(config).judge or _own_judge(config, beside(out, "verdicts").with_suffix(".sqlite"))
    judge.validate(Criterion("greets", "Greets the reader."))
    journal_file = beside(out, "journal")
    if out.exists() and not journal_file.exists():
        unknown = f"no {journal_file.name} beside it says what it was made from"
        raise FileExistsError(f"`--out` {config.out!r} exists, and {unknown}: name another file")
    console, status, failure = make_console(), 0, ""
    with Journal(journal_file, _header(config, spelt, source)) as journal:
        if done := sum(question.finished(journal) for question in chosen):
            console.print(f"{done} of {len(chosen)} questions are finished")
        try:
            if done < len(chosen):
                _write(config, chosen, journal)
                failure = _judge(judge, chosen, journal, config)
        except KeyboardInterrupt:
            status = 130
        finally:
            if journal.entries:
                count = _write_outputs(out, questions, journal)
                _summarise(chosen, journal, out)
    if failure:
        console.print(f"the judge gave no verdict: {failure}", soft_wrap=True)
    if left := sum(not question.finished(journal) for question in chosen):
        console.print(f"{left} questions are not finished: the same command goes on with them")
        raise SystemExit(status or 1)
    if not count:
        console.print("no rubric was made: look at what was rejected")
        raise SystemExit(1)


def _own_judge(config: Namespace, cache: Path) -> Judge:
    """The model itself, as a judge that keeps its verdicts."""
    if config.policy is not None:
        return LocalJudge(config.policy, config.dtype, batch_size=config.concurrency)
    limits = {"concurrency": config.concurrency, "timeout_s": config.timeout, "deadline_s": config.deadline}
    return HTTPJudge(config.server, config.model, config.key_env, cache=str(cache), **limits)


def _header(config: Namespace, judge: Any, source: Path) -> dict[str, Any]:
    """What makes two calls the same work: the input's content, and everything that changes what is written."""
    names = ("model", "policy", "most", "answers", "attempts", "temperature", "max_tokens", "seed", "body", "on_bad_row")
    settings = {"command": "rubrics", **{name: config[name] for name in names}, "judge": judge}
    return {"input": {"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}, "settings": settings}


def _write(config: Namespace, questions: Sequence[_Question], journal: Journal) -> None:
    """Have the answers written that are missing, and then criteria proposed."""
    writer = make_writer(config)

    def work(title: str, chats: Mapping[str, tuple[Message, ...]], take: Callable[[str, ChatReply], str | Rejection]) -> None:
        with progress_of(title) as show:
            tally = Tally.of(chats, journal, "text")
            work_through(chats, writer, journal, take, tally, on_progress=show, **tries_of(config))

    open_ = [question for question in questions if not question.finished(journal)]
    written = [(name, _WANTED[kind], q.row.messages) for q in open_ for kind, names in q.written.items() for name in names]
    work("answering", {name: _told(chat, words) for name, words, chat in written}, _take_answer)
    chats = {}
    for question in open_:
        if (texts := question.texts(journal)) is not None:
            asked = proposal_chat(question.row.messages, texts["good"], texts["bad"], config.most + config.most // 2)
            chats[question.asked[-2]] = asked
    if config.policy is None:
        writer = make_writer(config, {"response_format": PROPOSAL_FORMAT})
    work("proposing", chats, _take_proposals)


def _told(chat: tuple[Message, ...], words: str) -> tuple[Message, ...]:
    first, rest = (chat[0]["content"], chat[1:]) if chat[0]["role"] == "system" else ("", chat)
    return ({"role": "system", "content": f"{first}\n\n{words}".strip()}, *rest)


def _take_answer(name: str, reply: ChatReply) -> str | Rejection:
    answer = split_thought(reply.text).answer
    return Rejection("empty", reply=reply.text[:1000]) if is_empty(answer) else answer


def _take_proposals(name: str, reply: ChatReply) -> str | Rejection:
    try:
        found, bad = read_proposals(reply.text)
    except ValueError:
        return Rejection("cut_off" if reply.finish_reason == "length" else "no_list", reply=reply.text[:1000])
    return reply.text if found else Rejection(bad[0].reason if bad else "no_list", reply=reply.text[:1000])


def _judge(judge: Judge, questions: Sequence[_Question], journal: Journal, config: Namespace) -> str:
    """Try the proposed criteria on the answers; returns why a question is left without any verdict, empty where none is."""
    failure = ""
    ready = [q for q in questions if not q.finished(journal) and q.asked[-2] in journal.entries]
    with progress_of("judging") as show:
        tally = Tally(len(ready))
        for first in range(0, len(ready), config.concurrency):
            part = [
                (q, q.texts(journal) or {}, *read_proposals(journal.entries[q.asked[-2]]["text"]))
                for q in ready[first:][: config.concurrency]
            ]
            requests = [
                [JudgeRequest(q.row.messages, text, tuple(criteria), thinks=False) for text in texts["good"] + texts["bad"]]
                for q, texts, criteria, _ in part
            ]
            verdicts = iter(judge.judge([request for some in requests for request in some]))
            for (question, texts, criteria, bad), asked in zip(part, requests, strict=True):
                given = [next(verdicts) for _ in asked]
                errors = [verdict.reason for row in given for verdict in row if verdict.outcome is Outcome.ERROR]
                if len(errors) == len(given) * len(criteria):  # not one that failed, but the judge
                    failure = failure or errors[0]
                    continue
                named = [replace(criterion, name=str(i)) for i, criterion in enumerate(criteria)]
                scores = verdicts_to_scores([given], [Rubric(tuple(named))])
                rows = [
                    [score if mask else None for score, mask in zip(*of, strict=True)]
                    for of in zip(scores.scores[0].T.tolist(), scores.mask[0].T.tolist(), strict=True)
                ]
                kept, dropped = screen(criteria, rows, config.most, good=len(texts["good"]))
                rejected = [asdict(Rejection(reason, what)) for reason, what in bad + dropped]
                entry = {"id": question.asked[-1], "text": json.dumps([_fields(c) for c in kept], ensure_ascii=False)}
                journal.append({**entry, "scores": rows, "rejected": rejected})
                tally.pairs += 1
                show(tally)
    return failure


def _fields(criterion: Criterion) -> dict[str, Any]:
    return {"name": criterion.name, "description": criterion.description, "points": criterion.points, "tags": [*criterion.tags]}


def _kept(question: _Question, journal: Journal) -> list[Criterion]:
    """The criteria that were kept, their names told apart."""
    names: Counter[str] = Counter()
    kept = []
    for fields in json.loads(journal.entries.get(question.asked[-1], {"text": "[]"})["text"]):
        names[fields["name"]] += 1
        number = names[fields["name"]]
        kept.append(Criterion(**{**fields, "name": fields["name"] + (f".{number}" if number > 1 else "")}))
    return kept


def _write_outputs(out: Path, questions: Sequence[_Question], journal: Journal) -> int:
    """Write the rubrics to ``out``, and what was rejected to ``<out>.rejected.jsonl``; returns the number of rubrics."""
    rubrics, rejected = [], []
    for question in questions:
        row, kept = question.row, _kept(question, journal)
        if kept:
            rubrics.append(to_row(RubricRow(row.id, row.messages, Rubric(tuple(kept)), row.answer)))
        bad = [one for name in question.asked for one in journal.entries.get(name, {"rejected": []})["rejected"]]
        if bad:
            rejected.append({"id": row.id, "question": row.question, "criteria": len(kept), "rejected": bad})
    for path, rows in ((out, rubrics), (beside(out, "rejected"), rejected)):
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rubrics)


def _summarise(questions: Sequence[_Question], journal: Journal, out: Path) -> None:
    console, reasons = make_console(), Counter[str]()
    kept = [len(_kept(question, journal)) for question in questions]
    for question in questions:
        for name in question.asked:
            reasons.update(str(one["reason"]) for one in journal.entries.get(name, {"rejected": []})["rejected"])
    dropped = sum(question.finished(journal) and not count for question, count in zip(questions, kept, strict=True))
    rubrics = sum(map(bool, kept))
    console.print(f"{rubrics} rubrics of {len(questions)} questions with {sum(kept)} criteria, {dropped} questions dropped")
    if reasons:
        table = Cells("reason", "rejected", "")
        for reason, count in reasons.most_common():
            table.add_row(reason, str(count), _MEANINGS.get(reason, ""))
        console.print(table)
    console.print(f"written to {out}, {beside(out, 'rejected').name}, {beside(out, 'journal').name}", soft_wrap=True)
