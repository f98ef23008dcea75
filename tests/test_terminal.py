import logging
import warnings

import pytest

from lightning_focal.terminal import TRACEBACK_ENV, plain_errors, plain_message, quiet

UNION = """Parser key "reward":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'RewardStrategy'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'FocalReward':
        Parser key "gamma":
          Expected a <class 'float'>. Got value: abc
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='gamma', val='abc')"""


def test_what_speaks_of_the_parser_is_left_out():
    text = plain_message(UNION)
    assert 'Parser key "gamma":' in text
    assert "Expected a <class 'float'>. Got value: abc" in text
    for word in ("Union", "Subtypes", "NoneType", "NestedArg"):
        assert word not in text


def test_other_messages_stay_as_they_are():
    message = "`data.batch_size` must be >= 1, got 0\n  write a number"
    assert plain_message(message) == message


def test_our_errors_end_with_their_message(capsys, monkeypatch):
    from lightning_focal.modules import Update

    monkeypatch.delenv(TRACEBACK_ENV, raising=False)
    with pytest.raises(SystemExit) as ended, plain_errors():
        Update(epochs=0)
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("error: `update.epochs` must be >= 1, got 0\n")
    assert TRACEBACK_ENV in err


def test_mistakes_of_code_keep_their_traceback(monkeypatch):
    """Also where the last line that ran was ours, but did not mean to raise."""
    from lightning_focal.rewards import FocalReward

    monkeypatch.delenv(TRACEBACK_ENV, raising=False)
    with pytest.raises(AttributeError), plain_errors():
        FocalReward().shape(None)
    with pytest.raises(ZeroDivisionError), plain_errors():
        1 / 0  # noqa: B018


def test_quiet_drops_named_lines_alone(caplog):
    quiet()
    quiet()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        logger.info("💡 Tip: For seamless cloud logging")
        logger.info("TPU available: False, using: 0 TPU cores")
        logger.info("GPU available: False, used: False")
    assert [record.getMessage() for record in caplog.records] == ["GPU available: False, used: False"]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quiet()
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use ...", stacklevel=1)
        warnings.warn("a loss that is not finite", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["a loss that is not finite"]
