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
        monkeypatch.undo()
    assert said == ["GPU available: False, used: False"]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quiet()
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use ...", stacklevel=1)
        warnings.warn("a loss that is not finite", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["a loss that is not finite"]


def printed(**settings):
    """What a console writes that is told it is a terminal by its surroundings."""
    console = make_console(file=io.StringIO(), **settings)
    table = Table("a", "b")
    table.add_row("1", "2")
    console.print("words", style="bold red")
    console.print(table)
    return console.file.getvalue()


@pytest.fixture
def pretended(monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich's own way to say so
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return monkeypatch


def test_a_terminal_has_colours_and_frames(pretended):
    text = printed()
    assert "\x1b[1;31mwords" in text
    assert "┏━━━┳━━━┓" in text


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("CI", "1"), ("TERM", "dumb")])
def test_plain_lines_where_nobody_looks(pretended, name, value):
    pretended.setenv(name, value)
    assert printed().split("\n") == ["words", "a  b", "1  2", ""]


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_ci_that_says_no_is_no_ci(pretended, value):
    pretended.setenv("CI", value)
    assert "┃" in printed()


def test_no_color_takes_away_colours_alone(pretended):
    pretended.setenv("NO_COLOR", "1")
    text = printed()
    assert "31m" not in text
    assert "┏━━━┳━━━┓" in text


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
