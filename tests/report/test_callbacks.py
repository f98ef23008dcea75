"""The report at the end of `fit`, and what goes to loggers on the way."""

import html
import logging
import re

import markdown

from lightning_focal.callbacks import HeldOut, RolloutTable
from lightning_focal.cli import main
from lightning_focal.report import LogMedia, WriteReport, callbacks, media
from lightning_focal.report.figures import new_figure
from lightning_focal.report.tables import markdown_table
from lightning_focal.runs import EventLog
from tests.conftest import rubric_rows, write_rows
from tests.report.made_run import make_run


def test_fit_ends_in_a_report(tmp_path, run_tiny, caplog):
    held_out = str(write_rows(tmp_path / "val.jsonl", rubric_rows(3)))
    with caplog.at_level(logging.INFO, logger="lightning_focal"):
        run_tiny(None, HeldOut(), RolloutTable(), WriteReport(), data_val=held_out, trainer_limit_train_batches=2)
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "over 2 batches" in text
    assert "packed-rollouts" in text
    assert f"report: {tmp_path / 'run' / 'report.html'}" in caplog.text


def test_a_report_that_fails_does_not_take_the_run_along(tmp_path, run_tiny, caplog, monkeypatch):
    def broken(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(callbacks, "write_report", broken)
    run_tiny(None, WriteReport(), trainer_limit_train_batches=1)
    assert f"`lightning_focal report {tmp_path / 'run'}` tries again" in caplog.text
    assert "no space left" in caplog.text
    assert not (tmp_path / "run" / "report.html").exists()


def test_by_their_short_names_in_a_configuration(tmp_path, rubric_file):
    arguments = (
        f"--data=RubricDataModule --data.train={rubric_file(4)} --model.sampling.max_new_tokens=4 --trainer.accelerator=cpu "
    )
    arguments += f"--reward=StaticReward --model.policy=random:tiny-llama?hidden=32&layers=1 --run_dir={tmp_path / 'r'} "
    arguments += "--trainer.max_epochs=1 --trainer.callbacks+=WriteReport --trainer.callbacks+=LogMedia "
    main(["fit", *arguments.split(), "--trainer.enable_checkpointing=false"])
    assert "version and commit" not in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")  # they are recorded
    by_name = {f"report/{figure}/criterion name" for figure in ("levels", "shares")}
    assert set(tags(tmp_path / "r")) == {
        "report/levels",
        "report/shares",
        "report/balance",
        "report/theory",
        "report/health",
        *by_name,
    }


def tags(folder):
    """Tags of images in TensorBoard's events, with their steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}


def test_figures_show_held_out_prompts_and_tags(tmp_path, monkeypatch):
    """Levels by criterion stay those of every batch; tags are those of the recorded rollouts."""
    folder, board = make_run(tmp_path / "run", batches=4, evaluations=(0, 2, None)), EventLog(tmp_path / "board")
    monkeypatch.setattr(media, "matplotlib_figure", lambda figure: new_figure(1, 1))  # drawn in the other tests
    without, shown = (set(media.log_figures([board], folder, 4, rollouts=count)) for count in (0, 100))
    assert without >= {"report/score", "report/criteria"}
    by = ("criterion name", "tag level")
    assert shown - without == {f"report/{figure}/{kind}" for figure in ("levels", "shares") for kind in by}
    assert without <= shown
    board.save()
    assert tags(tmp_path / "board")["report/levels/tag level"] == [4]


def test_tables_of_rollouts_and_criteria_at_the_end_and_figures_every_few_batches(tmp_path, run_tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tables, figures = LogMedia(rows=3, characters=4, figures=False), LogMedia(rows=0, every_n_batches=2)
    built = run_tiny(None, tables, figures, folder="run", fit=False)
    built.trainer.loggers = [*built.trainer.loggers, EventLog(tmp_path / "run")]
    built.trainer.fit(built.module, datamodule=built.data)
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    texts = {}
    for tag in events.Tags()["tensors"]:
        *_, event = events.Tensors(tag)  # of criteria one every few batches, too
        texts[tag.removesuffix("/text_summary")] = (event.step, event.tensor_proto.string_val[0].decode())
    assert tags(tmp_path / "run") == {f"report/{name}": [2, 4] for name in ("levels", "shares", "balance", "theory", "health")}
    assert texts.keys() == {"criteria", "rollouts/train"}
    step, criteria = texts["criteria"]
    assert step == 4
    assert criteria.splitlines()[0] == "| criterion | score | saturation | weight |"
    assert len(criteria.splitlines()) == 2 + 3
    _, rollouts = texts["rollouts/train"]
    rows = [[html.unescape(cell.strip()) for cell in line.strip("|").split(" |")] for line in rollouts.splitlines()[2:]]
    assert len(rows) == 3
    assert all(len(row) == 8 and len(row[3]) <= 4 and row[2] == "Say…" for row in rows)


def test_a_table_shows_markup_as_it_is():
    """Against python-markdown, by which TensorBoard makes HTML of a text."""
    nasty = [
        "![x](http://host/a.png)",
        "<script>alert(1)</script>",
        "a | b",
        "| -",
        "# h",
        "`c` **d** _e_ [f](g)",
        "1\n\n- 2",
        "\\|",
    ]
    shown = markdown.markdown(
        markdown_table(["a", "b"], [[cell, cell] for cell in nasty], media.as_entities), extensions=["tables"]
    )
    cells = re.findall(r"<td>(.*?)</td>", shown, flags=re.DOTALL)
    assert [html.unescape(cell) for cell in cells] == [" ".join(cell.split()) for cell in nasty for _ in range(2)]
    assert not re.findall(r"<(?!/?(?:table|thead|tbody|tr|td|th)>)", shown)
