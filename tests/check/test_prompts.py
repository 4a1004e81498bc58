"""What a check finds out of a generate stage's prompts."""

import json

import pytest
from transformers import AutoTokenizer

from llmkd.check.facts import Fact
from llmkd.check.ood import longest_ood_row, num_ood_rows
from llmkd.check.prompts import prompt_length, prompt_rows
from llmkd.check.vocabulary import read_tokenizer, tokenizer_of_task
from llmkd.data.intents import make_named_rows
from llmkd.errors import DataError, InputError
from llmkd.recipe.data import NamedIntentTask
from llmkd.recipe.ood import OODTask

GENERATE = """\
name: asked
kind: generate
teacher: {model_name_or_path: FOLDER/teacher}
data: {dataset_name: FOLDER/prompts.jsonl}
engine: {kind: transformers}
"""
USER = {"role": "user", "content": "1+1="}
ANSWER = {"role": "assistant", "content": "2"}


@pytest.fixture
def asked(local, checked, tokenizer):
    """Checks a stage that has rows answered."""

    def check(rows, *overrides, template="{{ messages }}"):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(local / "teacher")
        content = "".join(json.dumps(row) + "\n" for row in rows)
        (local / "prompts.jsonl").write_text(content)
        (local / "asked.yaml").write_text(GENERATE.replace("FOLDER", str(local)))
        return checked(local / "asked.yaml", *overrides).stages["generate"].facts

    return check


def refused(asked, rows, *overrides, **more):
    with pytest.raises(InputError) as caught:
        asked(rows, *overrides, **more)
    (problem,) = caught.value.problems
    return problem


def test_conversations_are_counted_and_measured_with_an_estimate_of_the_template(asked):
    found = asked([{"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER, USER]}])
    assert found["prompts"].value == 2
    # 4 + 1 + 4 characters, a line end after two of them, and 8 for each of 4 turns.
    assert (found["longest prompt"].value, found["longest prompt"].exactness) == (43, "estimate")
    assert "tokens of chat template per turn" in found["longest prompt"].how


def test_a_plain_prompt_is_measured_as_it_is_read(asked):
    plain = asked([{"prompt": "1+1="}])["longest prompt"]
    assert plain.value == 5
    chat = asked([{"prompt": "1+1="}], "data.apply_chat_template=true", "data.system_prompt='12'")
    # 4 + 1 + 2 characters, and 8 for each of 3 turns.
    assert chat["longest prompt"].value == 31


def test_a_prompts_prefix_is_measured_too(asked):
    rows = [{"prompt": "1+1="}]
    plain, prefixed = asked(rows), asked(rows, "data.prompt_prefix=;;;")
    assert prefixed["longest prompt"].value == plain["longest prompt"].value + 3


def test_a_prompt_from_a_file_is_measured_as_it_is_filled(asked, local):
    (local / "p.txt").write_text("{a}+{b}=\n")
    file = f"data.prompt_file={local}/p.txt"
    found = asked([{"a": 1, "b": 2}, {"a": 10, "b": 20}], file)["longest prompt"]
    # `10+20=` and the begin-of-text token.
    assert found.value == 7
    said = refused(asked, [{"a": 1, "c": 2}], file)
    assert "has a place {b}, and row 1 of" in said
    assert "its columns are a, c;" in said


def test_a_column_to_keep_that_is_not_there_is_found_before_anything_runs(asked):
    rows = [{"prompt": "1+1=", "id": 1}, {"prompt": "1+1="}]
    said = refused(asked, rows, "data.keep_columns=[id]")
    assert "row 2 has no `id`; its columns are prompt;" in said
    assert asked(rows, "data.keep_columns=[id]", "data.num_examples=1")["prompts"].value == 1


@pytest.mark.parametrize("rows", [[{"messages": [USER]}], [{"prompt": [USER]}]])
def test_a_teacher_without_a_chat_template_is_refused(asked, rows, local):
    message = "asked.yaml:4 data.chat_template: the teacher's tokenizer has no chat template; write"
    assert message in refused(asked, rows, template=None)
    (local / "own.jinja").write_text("{{ messages }}")
    asked(rows, f"data.chat_template={local / 'own.jinja'}", template=None)


def test_the_check_sees_a_template_where_transformers_does(asked, local):
    asked([{"messages": [USER]}])
    assert AutoTokenizer.from_pretrained(local / "teacher").chat_template == "{{ messages }}"
    assert (local / "teacher" / "chat_template.jinja").is_file()
    (local / "teacher" / "chat_template.jinja").unlink()
    config = local / "teacher" / "tokenizer_config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"chat_template": "{{ messages }}"}))
    assert AutoTokenizer.from_pretrained(local / "teacher").chat_template == "{{ messages }}"
    assert read_tokenizer(local / "teacher").has_chat_template
    config.write_text(json.dumps(content))
    assert not read_tokenizer(local / "teacher").has_chat_template


def test_a_conversation_that_no_answer_can_follow_is_named(asked):
    found = refused(asked, [{"messages": [USER]}, {"messages": [ANSWER, ANSWER]}])
    assert "data.dataset_name: row 2: before the assistant's answer, `messages` end" in found


def test_a_system_prompt_without_a_template_is_refused(asked):
    found = refused(asked, [{"prompt": "1+1="}], "data.system_prompt=Think.")
    assert "data.system_prompt=Think.: the rows' `prompt` is plain text" in found


def test_an_earlier_stages_own_template_is_counted(local, checked):
    (local / "own.jinja").write_text("{{ messages }}")
    (local / "prompts.jsonl").write_text(json.dumps({"messages": [USER]}) + "\n")
    text = f"""\
name: both
stages:
  first:
    kind: train
    student: {{model_name_or_path: {local}/teacher}}
    data: {{dataset_name: {local}/data.jsonl, chat_template: {local}/own.jinja}}
    losses: [{{kind: cross_entropy}}]
  second:
    kind: generate
    teacher: {{model_name_or_path: stage:first}}
    data: {{dataset_name: {local}/prompts.jsonl}}
"""
    (local / "both.yaml").write_text(text)
    assert checked(local / "both.yaml").stages["second"].facts["prompts"].value == 1
    (local / "both.yaml").write_text(text.replace(f", chat_template: {local}/own.jinja", ""))
    with pytest.raises(InputError, match="no chat template"):
        checked(local / "both.yaml")


def test_of_named_intents_the_request_alone_is_a_prompt():
    fields = {"kind": "task", "task": "named_intents", "num_examples": 64}
    task = NamedIntentTask(**fields)
    words = max(len(row["prompt"].split()) for row in make_named_rows(task, seed=0))
    known = tokenizer_of_task(task)
    assert prompt_rows(task) == Fact(64, "exact", "data.num_examples")
    # The begin token, and one per word.
    assert prompt_length(task, known) == Fact(words + 1, "estimate", "longest of 64 requests")
    intents = fields | {"task": "intents", "num_examples": 5}
    apart = OODTask.model_validate(
        {"kind": "ood", "name": "o", "data": intents, "out_data": fields}
    )
    assert num_ood_rows(apart).value == 69
    assert longest_ood_row(apart, known).value == words + 1
    with pytest.raises(DataError, match="write num_examples: 20000 or less"):
        prompt_rows(task.model_copy(update={"num_examples": 20_001}))
