import io
import logging
import warnings

import pytest
from rich.table import Table

from lightning_focal.terminal import TRACEBACK_ENV, make_console, plain_errors, plain_message, quiet, say_less

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
    assert "Parser key \"gamma\":\n          Expected a <class 'float'>. Got value: abc" in text
    assert not any(word in text for word in ("Union", "Subtypes", "NoneType", "NestedArg"))
    message = "`data.batch_size` must be >= 1, got 0\n  write a number"
    assert plain_message(message) == message


def test_our_errors_end_with_their_message_and_mistakes_of_code_keep_their_traceback(capsys, monkeypatch):
    """Also where the last line that ran was ours, but did not mean to raise."""
    from lightning_focal.modules import Update
    from lightning_focal.rewards import FocalReward

    monkeypatch.delenv(TRACEBACK_ENV, raising=False)
    with pytest.raises(SystemExit) as ended, plain_errors():
        Update(epochs=0)
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("error: `update.epochs` must be >= 1, got 0\n")
    assert TRACEBACK_ENV in err
    with pytest.raises(AttributeError), plain_errors():
        FocalReward().shape(None)
    with pytest.raises(ZeroDivisionError), plain_errors():
        1 / 0  # noqa: B018


def test_quiet_drops_named_lines_alone(monkeypatch, caplog):
    quiet()
    quiet()
    name, said = "lightning.pytorch.utilities.rank_zero", []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())
    with caplog.at_level(logging.INFO, logger=name):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [listener])
        for words in ("💡 Tip: For seamless", "TPU available: False, using: 0 TPU cores", "GPU available: False, used: False"):
            logging.getLogger(name).info(words)
    assert said == ["GPU available: False, used: False"]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quiet()
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use ...", stacklevel=1)
        warnings.warn("a loss that is not finite", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["a loss that is not finite"]


@pytest.mark.parametrize(
    ("surroundings", "colours", "frames"),
    [
        ({}, True, True),
        *(({"CI": value}, True, True) for value in ("", "0", "false")),
        ({"NO_COLOR": "1"}, False, True),
        *((named, False, False) for named in ({"CI": "true"}, {"CI": "1"}, {"TERM": "dumb"})),
    ],
)
def test_plain_lines_where_nobody_looks(monkeypatch, surroundings, colours, frames):
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TTY_COMPATIBLE": "1", "TERM": "xterm-256color", **surroundings}.items():  # the first: rich's own way
        monkeypatch.setenv(name, value)
    console = make_console(file=io.StringIO())
    table = Table("a", "b")
    table.add_row("1", "2")
    console.print("words", style="bold red")
    console.print(table)
    text = console.file.getvalue()
    assert ("31m" in text, "┏━━━┳━━━┓" in text) == (colours, frames)
    assert frames or text.split("\n") == ["words", "a  b", "1  2", ""]


def test_less_is_said(caplog):
    names = ("lightning_focal", "lightning.pytorch", "lightning.fabric")
    before = {name: logging.getLogger(name).level for name in names}
    try:
        say_less()
        logging.getLogger("lightning_focal.runs").info("news")
        logging.getLogger("lightning.pytorch.utilities.rank_zero").info("news")
        logging.getLogger("lightning_focal.runs").warning("a warning")
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
    assert [record.message for record in caplog.records] == ["a warning"]
