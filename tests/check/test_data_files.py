import pytest

from llmkd.check import data_files
from llmkd.check.data_files import BadDataError, files_of
from llmkd.data import files
from llmkd.errors import InputError
from llmkd.recipe.data import DatasetRows


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize(
    "names",
    [
        ["train-0.jsonl", "train-1.parquet", "validation.jsonl"],
        ["stories.txt", "more.jsonl"],
        ["data.jsonl", "train.jsonl", "test.jsonl"],
        ["test.txt", "other.jsonl"],
        ["notes.csv"],
        [],
    ],
)
def test_a_split_is_made_of_the_files_that_training_reads(names, split, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    source = DatasetRows(dataset_name=str(tmp_path), dataset_split=split)
    try:
        expected = files.files_of_split(tmp_path, split)
    except InputError:
        with pytest.raises(BadDataError, match=f"has no file of split {split}"):
            files_of(source)
    else:
        assert files_of(source) == expected


def test_the_kinds_of_files_are_those_that_training_reads():
    assert data_files.SUFFIXES == files.SUFFIXES
