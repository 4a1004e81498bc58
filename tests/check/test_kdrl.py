"""What a check says of a kdrl stage."""

import pytest

from llmkd.errors import InputError

STAGE = """\
name: local
kind: kdrl
student: {model_name_or_path: STUDENT}
teacher: {model_name_or_path: TEACHER}
data: {dataset_name: DATA, keep_columns: [completion]}
reward_funcs: [{kind: number, answer_column: completion}]
trainer: {per_device_train_batch_size: 8, num_generations: 4, max_completion_length: 16}
"""


@pytest.fixture
def stage(local):
    text = STAGE.replace("STUDENT", str(local / "student")).replace(
        "DATA", str(local / "data.jsonl")
    )
    (local / "kdrl.yaml").write_text(text.replace("TEACHER", str(local / "teacher")))
    return local / "kdrl.yaml"


def test_prompts_lengths_and_steps_are_known(stage, checked):
    found = checked(stage).stages["kdrl"].facts
    assert found["prompts"].value == 10
    # <bos> and "0+1=" are 5 tokens, and 16 may follow.
    assert (found["longest prompt"].value, found["longest row"].value) == (5, 21)
    # Ten prompts, four responses each, eight a step, three epochs.
    assert found["steps"].value == 15


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        # Two prompts a micro-batch: eight would do, and sixteen are more than there are.
        (
            "trainer.gradient_accumulation_steps=8",
            "data: there are 10 prompts, and 16 are answered at once; add some, or write a smaller",
        ),
        ("trainer.num_generations=3", "trainer.num_generations=3: 8 responses are written at once"),
        (
            "trainer.generation_batch_size=20",
            "trainer.generation_batch_size=20: 20 is no multiple of per_device_train_batch_size: 8",
        ),
    ],
)
def test_batches_that_trl_would_refuse_or_leave_out_are_told(stage, checked, override, problem):
    with pytest.raises(InputError) as caught:
        checked(stage, override)
    assert any(problem in each for each in caught.value.problems), caught.value.problems
