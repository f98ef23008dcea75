"""metrics.csv as series."""

import math

import pytest

from lightning_focal.report.metrics import Series, keys, read_metrics


def series(pairs):
    made = Series()
    for batch, value in pairs:
        made.add(batch, value)
    return made


def test_trailing_means_against_a_plain_loop():
    pairs = [(0, 1.0), (1, 4.0), (4, 2.0), (5, 8.0), (9, 3.0)]
    for window in (1, 2, 3, 5, 20):
        near = [[value for other, value in pairs if batch - window < other <= batch] for batch, _ in pairs]
        assert series(pairs).trailing(window) == pytest.approx([sum(values) / len(values) for values in near])


def test_sums_pool_by_count_and_what_is_not_finite_is_left_out():
    made = Series()
    made.add(0, 3.0, 3)
    made.add(1, 0.0, 1)
    assert (made.mean(0, 1), made.trailing(2)) == (0.75, [1.0, 0.75])
    made = series([(0, math.nan), (1, 0.5), (2, math.inf)])
    assert (made.batches, made.values) == ([1], [0.5])
    assert math.isnan(made.mean(2, 9))


def test_means_of_the_ends_are_those_of_a_tenth():
    assert series([(batch, float(batch)) for batch in range(20)]).ends(20) == (0.5, 18.5)


def test_a_file_cut_off_in_the_middle(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,epoch,train/a,train/b\n0,0.0,1.5,\n1,0.0,nan,2.5\n2,0.0,3.5,4\n3,0.0,4.")
    found = read_metrics(path)
    assert (found["train/a"].batches, found["train/b"].values) == ([0, 2], [2.5, 4.0])
    assert "epoch" not in found


@pytest.mark.parametrize("text", ["", "step", "step,a\n", "step,a\nx,1\n", "a,b\n1,2\n"])
def test_files_without_values(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    assert read_metrics(tmp_path / "metrics.csv") == {}


def test_odd_names(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text('step,"train/criterion/a, ""b""\nc/score"\n0,0.25\n')
    assert keys(read_metrics(path), "train/criterion/", "/score") == ['a, "b"\nc']
    path.write_bytes(b"step,train/\xff\n0,1.0\n")
    assert [found.values for found in read_metrics(path).values()] == [[1.0]]
