"""``lightning_focal report``."""

import pytest

from lightning_focal.cli import main
from tests.report.made_run import make_run


def test_it_says_what_came_out_and_where_it_is(tmp_path, capsys):
    folder = make_run(tmp_path / "run", batches=3)
    main(["report", str(folder)])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("The held-out score ")
    assert said[1].startswith("Of 7 criteria ")
    assert said[-1] == f"written to {folder}/report.html: {(folder / 'report.html').stat().st_size / 1e6:.1f} MB"


def test_out_and_rollouts(tmp_path, capsys):
    folder = make_run(tmp_path / "run", batches=3)
    main(["report", str(folder), "--out", str(tmp_path / "new" / "r.html"), "--rollouts", "8"])
    assert (tmp_path / "new" / "r.html").exists()
    assert not (folder / "report.html").exists()
    assert "note: 48 of 56 recorded rollouts" in capsys.readouterr().out


def test_several_runs(tmp_path, capsys):
    folders = [str(make_run(tmp_path / name, batches=3, seed=seed)) for seed, name in enumerate("ab")]
    main(["report", *folders])
    assert (tmp_path / "a" / "report.html").exists()
    assert "2 seeds" in capsys.readouterr().out


def test_a_bad_folder_is_a_plain_message(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path)])
    assert ended.value.code == 1
    assert f"error: `runs`: {tmp_path} must be a run folder with metrics.csv" in capsys.readouterr().err


def test_no_folder(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["report"])
    assert ended.value.code == 2
    assert "runs" in capsys.readouterr().err


def test_names_are_no_markup_in_the_terminal(tmp_path, capsys):
    main(["report", str(make_run(tmp_path / "[b]", criteria=[("[/red]", ())], batches=2))])
    assert "[/red]" in capsys.readouterr().out
