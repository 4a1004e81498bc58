"""Made-up stores; see synthetic_store.py."""

import importlib.util
import os
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def made():
    """The module that makes stores, whose file is `made.__file__`."""
    spec = importlib.util.spec_from_file_location(
        "synthetic_store", Path(__file__).with_name("synthetic_store.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def store(made, tmp_path):
    """A whole store of five shards, 46 rows."""
    made.write_store(tmp_path / "store", made.make_settings())
    return tmp_path / "store"


@pytest.fixture
def as_nobody():
    """A folder for a process without root's rights, which it is for the rest of the test."""
    nobody = 65534
    with tempfile.TemporaryDirectory() as name:
        folder, before = Path(name), os.geteuid()
        if before == 0:
            os.chown(folder, nobody, nobody)
            os.seteuid(nobody)
        try:
            yield folder
        finally:
            os.seteuid(before)
