"""A language model behind a server as the judge."""

from lightning_focal.judges.http.group import GROUP_TEMPLATE, GroupForm, GroupJudge, win_rates
from lightning_focal.judges.http.judge import HTTPJudge
from lightning_focal.judges.http.prompting import DEFAULT_TEMPLATE, Form, read_template
from lightning_focal.judges.http.verdicts import read_verdicts

__all__ = [
    "DEFAULT_TEMPLATE",
    "GROUP_TEMPLATE",
    "Form",
    "GroupForm",
    "GroupJudge",
    "HTTPJudge",
    "read_template",
    "read_verdicts",
    "win_rates",
]
