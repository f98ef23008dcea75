"""Judges whose verdicts are known beforehand."""

from lightning_focal.judges import Judge, JudgeRequest, Outcome, Verdict

WORDS = {
    "yes": Verdict(Outcome.MET, reason="seen"),
    "no": Verdict(Outcome.NOT_MET, reason="not seen"),
    "n/a": Verdict(Outcome.NOT_APPLICABLE, reason="not asked for"),
    "error": Verdict(Outcome.ERROR, reason="time-out"),
}


class Saying(Judge):
    """Says the same of every response: a word a criterion name, or a grade."""

    def __init__(self, **says):
        self.says, self.asked, self.refuses, self.prepared = says, [], (), 0

    def prepare(self):
        self.prepared += 1

    def measures(self):
        return {"asked": float(len(self.asked[-1]))}

    def validate(self, criterion):
        if criterion.name in self.refuses:
            raise ValueError(f"{criterion.where}: not {criterion.name}")

    def judge(self, requests):
        self.asked.append(list(requests))
        return [tuple(self._one(self.says[criterion.name]) for criterion in request.criteria) for request in requests]

    def _one(self, said):
        return WORDS[said] if isinstance(said, str) else Verdict(Outcome.GRADED, said, "graded")


def request(response, *criteria):
    return JudgeRequest(({"role": "user", "content": "Q?"},), response, criteria)
