"""``lightning_focal report``."""

import pytest

from lightning_focal.cli import main
from tests.report.made_run import make_run


def test_it_says_what_came_out_and_where_it_is(tmp_path, capsys):
    folder = make_run(tmp_path / "[b]", batches=3, criteria=[("[/red]", ()), ("calm", ())])  # names are no markup
    main(["report", str(folder)])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("The held-out score ")
    assert said[1].startswith("Of 2 criteria ")
    assert "[/red]" in " ".join(said[1:3])
    assert said[-1] == f"written to {folder}/report.html: {(folder / 'report.html').stat().st_size / 1e6:.1f} MB"


def test_several_runs_out_rollouts_and_the_folder_one_is_in(tmp_path, capsys, monkeypatch):
    folders = [str(make_run(tmp_path / name, batches=3, seed=seed)) for seed, name in enumerate("ab")]
    main(["report", *folders, "--out", str(tmp_path / "new" / "r.html"), "--rollouts", "16"])
    assert (tmp_path / "new" / "r.html").exists()
    assert not (tmp_path / "a" / "report.html").exists()
    said = capsys.readouterr().out
    assert "2 seeds" in said
    assert "note: 96 of 112 recorded rollouts" in said
    monkeypatch.chdir(folders[0])
    main(["report", "."])
    assert (tmp_path / "a" / "report.html").exists()
    assert "report.html" in capsys.readouterr().out


def test_a_bad_folder_is_a_plain_message(tmp_path, capsys):
    for arguments, code, words in (([str(tmp_path)], 1, f"error: `runs`: {tmp_path} must be a run folder"), ([], 2, "runs")):
        with pytest.raises(SystemExit) as ended:
            main(["report", *arguments])
        assert ended.value.code == code
        assert words in capsys.readouterr().err
