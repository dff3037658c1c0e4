"""No test reads or writes the user's own cache."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def session_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
    """An empty cache of the test's own."""
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
