import pytest
from transformers import LlamaConfig

from llmkd.errors import DataError, InputError
from llmkd.evaluation.questions import Question
from llmkd.evaluation.reasoning_prompts import example_pool, examples_for, filled, prompts_of
from llmkd.recipe.reasoning import ReasoningTask

CONFIG = LlamaConfig()


def task(**settings):
    data = {"dataset_name": "org/name"}
    content = {"kind": "reasoning", "name": "t", "data": data, "grader": "number"}
    return ReasoningTask.model_validate(content | settings)


def questions(count):
    return [Question(f"q{i}", f"s{i}", str(i)) for i in range(count)]


def texts(a_task, asked, tokenizer, seed=0):
    return [one.text for one in prompts_of(a_task, asked, tokenizer, CONFIG, seed=seed)]


def test_a_template_is_filled_once_and_other_braces_stay():
    question = Question("is {choices} a set?", "", "A", ("yes", "no"), ("A", "B"))
    assert filled("{question}\n{choices}\n\\boxed{}", question) == (
        "is {choices} a set?\n(A) yes\n(B) no\n\\boxed{}"
    )
    words = Question("?", "", "yes", ("yes", "no"), ("yes", "no"))
    assert filled("{choices}", words) == "- yes\n- no"


def test_without_a_chat_format_all_stand_below_each_other(tokenizer):
    a_task = task(
        prompt="Q: {question}\nA:",
        system_prompt="Think.",
        num_fewshot=1,
        fewshot=[{"question": "1+1?", "answer": "so 2"}],
    )
    assert texts(a_task, questions(1), tokenizer) == ["Think.\n\nQ: 1+1?\nA: so 2\n\nQ: q0\nA:"]


def test_with_a_chat_format_examples_are_turns(chat_tokenizer):
    a_task = task(
        system_prompt="Think.", num_fewshot=1, fewshot=[{"question": "1+1?", "answer": "so 2"}]
    )
    (prompt,) = prompts_of(a_task, questions(1), chat_tokenizer, CONFIG, seed=0)
    turns = [("system", "Think."), ("user", "1+1?"), ("assistant", "so 2"), ("user", "q0")]
    said = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    assert prompt.text == said + "<|im_start|>assistant\n"
    messages = [{"role": role, "content": text} for role, text in turns]
    whole = chat_tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt.input_ids == whole["input_ids"]


def test_a_chat_format_can_be_left_out_but_not_made_up(chat_tokenizer, tokenizer):
    assert texts(task(apply_chat_template=False), questions(1), chat_tokenizer) == ["q0"]
    with pytest.raises(InputError, match=r"no chat template; write false \(--no-chat-template\)"):
        texts(task(apply_chat_template=True), questions(1), tokenizer)


def test_a_chat_format_that_refuses_a_system_turn_says_what_to_write(chat_tokenizer):
    chat_tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    )
    with pytest.raises(
        InputError, match=r"refuses the conversation \(no system\); write system_pr"
    ):
        texts(task(system_prompt="Think."), questions(1), chat_tokenizer)


def test_own_rows_are_examples_for_all_but_themselves(tokenizer):
    asked = questions(6)
    found = texts(task(num_fewshot=2), asked, tokenizer)
    shown = [[part.split()[0] for part in text.split("\n\n")] for text in found]
    for question, (*examples, last) in zip(asked, shown, strict=True):
        assert last == question.text
        assert question.text not in examples
        assert len(set(examples)) == 2
    # Those that are not among the first two of the draw all get the same.
    assert len({tuple(examples) for *examples, _ in shown}) == 3


def test_examples_are_drawn_by_the_seed(tokenizer):
    asked = questions(30)
    assert texts(task(num_fewshot=2), asked, tokenizer) == texts(
        task(num_fewshot=2), asked, tokenizer
    )
    others = texts(task(num_fewshot=2), asked, tokenizer, seed=1)
    assert texts(task(num_fewshot=2), asked, tokenizer) != others


def test_the_same_question_in_another_row_is_no_example():
    question = Question("same", "s", "1")
    pool = [Question(" same ", "s", "1"), Question("other", "o", "2")]
    assert examples_for(question, pool, 1) == [pool[1]]
    with pytest.raises(
        DataError, match="only 1 solved examples are other than the question 'same'"
    ):
        examples_for(question, pool, 2)


def test_too_few_rows_for_the_examples_are_refused():
    with pytest.raises(DataError, match="2 rows are too few for 2 solved examples"):
        example_pool(task(num_fewshot=2), questions(2), 0)
    assert example_pool(task(), questions(2), 0) == []


def test_a_written_list_keeps_its_order():
    listed = [{"question": str(i), "answer": "a"} for i in range(9)]
    pool = example_pool(task(num_fewshot=3, fewshot=listed), questions(1), 7)
    assert [one.text for one in examples_for(questions(1)[0], pool, 3)] == ["0", "1", "2"]
