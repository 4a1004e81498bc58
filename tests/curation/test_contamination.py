import pytest

from llmkd.errors import InputError

QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then half as many in May. How many?"
)


@pytest.fixture
def cleaned(curate, write_rows):
    def run(texts, questions, **settings):
        against = [{"dataset_name": write_rows(questions, "questions.jsonl")}]
        step = {"kind": "contamination", "against": against} | settings
        return curate([{"prompt": text, "completion": "so."} for text in texts], step)

    return run


def prompts(found):
    return [row["prompt"] for row in found.rows]


def test_rows_that_share_an_ngram_with_a_question_go(cleaned):
    texts = [
        f"Here is one: {QUESTION.upper().replace(',', ';')}",
        "sold clips to 48 of her friends in april and then half as",  # 13 words of it
        "sold clips to 48 of her friends in april and then half",  # 12 of them
        "Something else altogether",
    ]
    found = cleaned(texts, [{"question": QUESTION}])
    assert prompts(found) == texts[2:]
    assert found.step["dropped"] == {"shares an n-gram": 2}
    assert found.step["counted"] == {"questions looked for": 1, "questions too short": 0}
    assert prompts(cleaned(texts, [{"question": QUESTION}], ngram=12)) == texts[3:]


def test_the_answer_is_looked_at_too(curate, write_rows):
    against = [{"dataset_name": write_rows([{"text": QUESTION}], "q.jsonl")}]
    rows = [{"prompt": "p", "completion": QUESTION}, {"prompt": "p", "completion": "x"}]
    # No word more than an n-gram has.
    short = {"text": "sold clips to 48 of her friends in April, and then half as"}
    found = curate([*rows, short], {"kind": "contamination", "against": against})
    assert found.rows == rows[1:]


def test_prompts_that_nobody_answered_yet_may_be_looked_at(curate, write_rows):
    against = [{"dataset_name": write_rows([{"text": QUESTION}], "q.jsonl")}]
    rows = [{"prompt": text} for text in (QUESTION, "other", "other")]
    steps = [{"kind": "contamination", "against": against}, {"kind": "duplicates"}]
    assert curate(rows, *steps).rows == rows[1:2]


def test_questions_that_are_too_short_are_counted(cleaned):
    found = cleaned([QUESTION, "a"], [{"question": QUESTION}, {"question": "Why?"}])
    assert found.step["counted"] == {"questions looked for": 1, "questions too short": 1}
    with pytest.raises(
        InputError, match=r"steps.0.ngram: no question has 13 words; write a smaller"
    ):
        cleaned([QUESTION], [{"question": "Why?"}])


def test_a_suites_data_sets_are_looked_for(curate, write_rows, tmp_path):
    path = write_rows([{"problem": QUESTION, "solution": "72"}], "clips.jsonl")
    (tmp_path / "suite.yaml").write_text(
        "name: own\ntasks:\n"
        f"  - {{kind: reasoning, name: clips, data: {{dataset_name: {path}}}, grader: number}}\n"
        "  - {kind: exact_match, name: sums, data: {kind: task, num_examples: 5, split: test}}\n"
    )
    rows = [{"prompt": QUESTION, "completion": "x"}, {"prompt": "other", "completion": "x"}]
    step = {"kind": "contamination", "suites": [str(tmp_path / "suite.yaml")]}
    found = curate(rows, step)
    assert found.rows == rows[1:]
    assert found.step["counted"]["tasks without a data set"] == 1


def test_the_questions_column_may_be_named_and_is_needed(cleaned, curate, write_rows):
    path = write_rows([{"asked": QUESTION}], "asked.jsonl")
    rows = [{"prompt": QUESTION, "completion": "x"}, {"prompt": "other", "completion": "x"}]
    against = {"dataset_name": path, "columns": {"question": "asked"}}
    assert curate(rows, {"kind": "contamination", "against": [against]}).rows == rows[1:]
    with pytest.raises(InputError) as caught:
        cleaned([QUESTION], [{"asked": QUESTION}])
    assert "has no question in its columns asked; write columns: {question: NAME}" in str(
        caught.value
    )


def test_a_named_question_goes_before_a_prompt_of_the_same_row(curate, write_rows):
    words = "one two three four five six"
    questions = write_rows([{"prompt": "short", "problem": words}], "q.jsonl")
    against = [{"dataset_name": questions, "columns": {"question": "problem"}}]
    rows = [{"prompt": words, "completion": "1"}, {"prompt": "another", "completion": "2"}]
    step = {"kind": "contamination", "against": against, "ngram": 5}
    assert [row["completion"] for row in curate(rows, step).rows] == ["2"]
