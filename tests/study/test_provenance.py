"""What a run says of where it comes from."""

from kdjax.study.provenance import provenance


def test_whoever_trains_nothing_has_the_seeds_of_the_networks_that_it_is_about(tmp_path):
    arms = {"network": {"seeds": [1, 2]}, "twin": {"seeds": [2, 4]}, "of a service": {}}
    assert provenance(tmp_path)["seeds"] == [0]
    (tmp_path / "config.json").write_text('{"model": "runs/teacher"}')
    assert provenance(tmp_path, arms)["seeds"] == [1, 2, 4]
    (tmp_path / "config.json").write_text('{"seeds": 3}')
    assert provenance(tmp_path, arms)["seeds"] == [0, 1, 2]
