import pytest

from llmkd.errors import InputError
from llmkd.evaluation.suites import find_suite, with_data, with_limit


def test_every_shipped_suite_loads():
    (task,) = find_suite("procedural").tasks
    assert (task.data.split, task.data.digits, task.data.num_examples) == ("test", 3, 500)
    # 27 characters of reasoning, a marker, 4 digits, and the end token.
    assert task.max_completion_length >= 33
    (task,) = find_suite("perplexity").tasks
    assert task.join_rows


def test_a_suite_may_be_a_file_or_written_out(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\n"
        "tasks:\n"
        "  - {kind: exact_match, name: sums, data: {kind: task, num_examples: 5, split: test}}\n"
    )
    suite = find_suite(str(path))
    assert (suite.name, suite.tasks[0].data.num_examples) == ("mine", 5)
    assert find_suite(suite) is suite


def test_a_suite_that_is_nowhere_is_refused():
    with pytest.raises(InputError, match="procedurral"):
        find_suite("procedurral")


def test_other_data_keeps_the_tasks_settings(tmp_path):
    suite = find_suite("perplexity")
    path = tmp_path / "file.jsonl"
    path.touch()
    (task,) = with_data(suite, [f"text={path}"]).tasks
    assert task.data.dataset_name == str(path)
    # Those of the hub data set that was replaced do not belong to the file.
    assert (task.data.dataset_split, task.data.num_examples) == ("train", None)
    assert (task.data.max_length, task.join_rows) == (256, True)
    assert with_data(suite, []) == suite


def test_a_column_is_of_the_task_with_the_longest_name_that_it_begins_with(tmp_path):
    path = tmp_path / "file.jsonl"
    path.touch()
    (task,) = find_suite("perplexity").tasks
    both = [task, task.model_copy(update={"name": "text.short"})]
    suite = find_suite("perplexity").model_copy(update={"tasks": both})
    files = [f"text={path}", f"text.short={path}"]
    found = with_data(suite, files, ["text.short.text=body"])
    assert [task.data.columns for task in found.tasks] == [{}, {"text": "body"}]


@pytest.mark.parametrize("text", ["nothing=a.txt", "text", "text=", "=a.txt"])
def test_data_for_no_task_is_refused(text):
    with pytest.raises(
        InputError, match=r"write (one of text|--data TASK=FILE)|did you mean `text`"
    ):
        with_data(find_suite("perplexity"), [text])


def test_data_for_a_task_that_makes_its_own_is_refused():
    with pytest.raises(InputError, match="no task of it reads files"):
        with_data(find_suite("procedural"), ["addition=a.txt"])


def test_a_limit_is_the_most_and_holds_for_rows_of_either_kind():
    numbers = {
        task.name: task.data
        for task in with_limit(find_suite("distillation"), 1000).tasks
        if task.name != "cost"
    }
    assert numbers["agreement"].num_examples == 1000
    # It has 50 of its own.
    assert numbers["draft"].num_examples == 50
    sums, files = with_limit(find_suite("ood"), 10).tasks
    assert (sums.data.num_examples, sums.out_data.num_examples) == (10, 10)
    # What is far is marked by its label here.
    assert (files.data.num_examples, files.out_data) == (10, None)
    sums, _ = with_limit(find_suite("ood"), 700).tasks
    assert (sums.data.num_examples, sums.out_data.num_examples) == (700, 500)


def test_a_limit_without_rows_is_refused():
    cost = find_suite("distillation").tasks[-1:]
    suite = find_suite("distillation").model_copy(update={"tasks": cost})
    with pytest.raises(InputError, match="--limit: no task of suite distillation has data"):
        with_limit(suite, 5)
