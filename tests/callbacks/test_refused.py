"""Arguments that are refused, in words."""

import pytest

from lightning_focal.callbacks import CollapseWatch, ConsoleReport, EMATeacher, EvolvingRubrics, HeldOut
from lightning_focal.callbacks.judge_watch import JudgeWatch
from lightning_focal.report import LogMedia, WriteReport

NAN, EVOLVING = float("nan"), {"url": "http://localhost:1/v1", "model": "m"}


@pytest.mark.parametrize(("callback", "arguments", "message"), [
    (EvolvingRubrics, EVOLVING | {"most": 0}, "`most` must be >= 1, got 0"),
    (EvolvingRubrics, EVOLVING | {"share": 1.0}, "`share` must be in"),
    (EvolvingRubrics, EVOLVING | {"url": "h"}, "`url` must be the address of an API"),
    (EMATeacher, {"start": 0.9, "end": 0.5}, r"0 <= start <= end <= 1, got 0.9 and 0.5"),
    (EMATeacher, {"start": -0.1}, r"0 <= start <= end <= 1"),
    (EMATeacher, {"end": 1.1}, r"0 <= start <= end <= 1"),
    (EMATeacher, {"update_every": 0}, r"`update_every` must be >= 1 batches, got 0"),
    (EMATeacher, {"total_batches": 0}, r"`total_batches` must be >= 1, got 0"),
    (HeldOut, {"level": 0.0}, r"`level` must be in \(0, 1\), got 0.0"),
    (HeldOut, {"level": 1.0}, r"`level` must be in \(0, 1\), got 1.0"),
    (HeldOut, {"level": 95}, r"`level` must be in \(0, 1\), got 95"),
    (CollapseWatch, {"window": 0}, "`window` must be >= 1 batches"),
    (CollapseWatch, {"share": 0.0}, r"`share` must be in \(0, 1\]"),
    (CollapseWatch, {"solved": 1.5}, r"`solved` must be in \(0, 1\]"),
    (CollapseWatch, {"accuracy_drop": NAN}, r"`accuracy_drop` must be in \(0, 1\]"),
    (CollapseWatch, {"distinct": 0.5}, "`distinct` must be >= 1"),
    (CollapseWatch, {"entropy": -0.1}, "`entropy` must be >= 0"),
    (JudgeWatch, {"max_failure_rate": 1.1}, r"`max_failure_rate` must be in \[0, 1\], got 1.1"),
    (JudgeWatch, {"max_failure_rate": NAN}, "`max_failure_rate`"),
    (JudgeWatch, {"window": 0}, "`window` must be >= 1 batch, got 0"),
    (ConsoleReport, {"table_every_n_batches": -1}, "`table_every_n_batches` must be >= 0, got -1"),
    (WriteReport, {"rollouts": -1}, "`rollouts` must be >= 0, got -1"),
    (LogMedia, {"every_n_batches": 0}, "`every_n_batches` must be >= 1, got 0"),
    (LogMedia, {"rollouts": -1}, "`rollouts` must be >= 0, got -1"),
    (LogMedia, {"characters": 0}, "`characters` must be >= 1, got 0"),
])  # fmt: skip
def test_arguments(callback, arguments, message):
    with pytest.raises(ValueError, match=message):
        callback(**arguments)
