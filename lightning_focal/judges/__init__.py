"""Who scores a response: by rule, and from verdicts to criterion scores."""

from lightning_focal.judges.base import Judge, JudgeRequest, Outcome, Verdict
from lightning_focal.judges.cache import VerdictCache
from lightning_focal.judges.combine import MajorityJudge, RoutedJudge
from lightning_focal.judges.equivalence import Equivalence
from lightning_focal.judges.http import GroupJudge, HTTPJudge
from lightning_focal.judges.local import LocalJudge
from lightning_focal.judges.math_process import Comparison
from lightning_focal.judges.overlap import JudgeThread
from lightning_focal.judges.rules import CHECKS, RuleJudge
from lightning_focal.judges.scoring import verdicts_to_scores

__all__ = ["CHECKS", "Comparison", "Equivalence", "GroupJudge", "HTTPJudge", "Judge", "JudgeRequest", "JudgeThread"]
__all__ += ["LocalJudge", "MajorityJudge", "Outcome", "RoutedJudge", "RuleJudge", "Verdict", "VerdictCache", "verdicts_to_scores"]
