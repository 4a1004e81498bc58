import pytest

from llmkd.data import files
from llmkd.data.files import raw_rows
from llmkd.errors import DataError
from llmkd.recipe.data import DatasetFiles


def test_a_data_set_that_is_a_python_file_is_refused_and_not_run(tmp_path, monkeypatch):
    folder, ran = tmp_path / "scripted", tmp_path / "ran"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n")
    # As a repository of the hub would be given: here it is a folder, so that no network is needed.
    monkeypatch.setattr(files, "_local_files", lambda source: None)
    with pytest.raises(DataError, match="scripts are no longer supported"):
        list(raw_rows(DatasetFiles(dataset_name=str(folder)), None))
    assert not ran.exists()
