"""A study made again beside the filed one."""

import json

import pytest

from kdjax.study import repeated


def wrote(folder, mean, low=0.1, high=0.3, name="a"):
    folder.mkdir()
    difference = {"mean": mean, "low": low, "high": high, "n": 5}
    pairs = [{"first": name, "minus": "b", "score": "accuracy", "difference": difference}]
    (folder / "results.json").write_text(json.dumps({"pairs": pairs}))
    return folder


@pytest.mark.parametrize(("again", "code"), [(0.2, 0), (0.1, 0), (0.31, 1), (-0.2, 1)])
def test_a_mean_outside_of_the_filed_interval_is_told(again, code, tmp_path, capsys):
    # Its own interval says nothing: a wide one would hold anything.
    run, filed = wrote(tmp_path / "run", again, -9, 9), wrote(tmp_path / "filed", 0.2)
    assert repeated.main([str(run), str(filed)]) == code
    told = capsys.readouterr().out
    assert f"a minus b, accuracy: {again:+.4f}; filed +0.2000 [+0.1000, +0.3000]" in told
    assert ("DOES NOT HOLD" in told) == bool(code)


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    filed = wrote(tmp_path / "filed", 0.2)
    other = wrote(tmp_path / "other", 0.2, name="c")
    empty = tmp_path / "empty"
    empty.mkdir()
    for run, words in ((other, "no difference a minus b"), (empty, "no results.json")):
        assert repeated.main([str(run), str(filed)]) == 2
        assert words in capsys.readouterr().err
