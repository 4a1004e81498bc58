"""What a teacher is asked, as text and as token ids."""

import json

import pytest
from tokenizers import processors

from llmkd.data.prompts import read_prompts
from llmkd.errors import DataError, InputError
from llmkd.recipe.data import AdditionTask, PromptRows

USER = {"role": "user", "content": "Hé?"}
ANSWER = {"role": "assistant", "content": "Yes."}
AGAIN = {"role": "user", "content": "No?"}
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.fixture
def asked(tmp_path, chat_tokenizer, tiny_llama):
    """Reads the prompts of rows, with fields of the recipe's `data`."""

    def read(rows, tokenizer=chat_tokenizer, config=None, **fields):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = PromptRows(dataset_name=str(path), **fields)
        config = config or tiny_llama(tokenizer).config
        return read_prompts(source, tokenizer, config, seed=0)

    return read


def conversations(found):
    return [prompt.messages for prompt in found]


@pytest.mark.parametrize("turns", [[USER], [SYSTEM, USER], [USER, ANSWER, AGAIN]])
def test_a_conversation_is_read_in_the_chat_template_up_to_the_answer(asked, chat_tokenizer, turns):
    bare, answered = asked([{"messages": turns}, {"messages": [*turns, ANSWER]}])
    expected = chat_tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert bare == answered
    assert bare.token_ids == expected
    assert bare.messages == turns
    assert bare.text.endswith("<|im_start|>assistant\n")
    assert chat_tokenizer.decode(bare.token_ids) == bare.text


def test_a_plain_prompt_is_a_users_turn_where_that_is_asked_for(asked, chat_tokenizer):
    rows = [{"prompt": "Hé?", "completion": "x"}]
    (plain,), (chat,) = asked(rows), asked(rows, apply_chat_template=True)
    assert (plain.text, plain.messages) == ("Hé?", None)
    assert plain.token_ids == chat_tokenizer("Hé?").input_ids
    assert chat == asked([{"messages": [USER]}])[0]


def test_a_prompt_may_be_a_conversation_as_in_trl(asked):
    assert asked([{"prompt": [USER, ANSWER, AGAIN]}]) == asked(
        [{"messages": [USER, ANSWER, AGAIN]}]
    )
    rows = [{"question": [USER], "prompt": "p"}]
    assert asked(rows, columns={"prompt": "question"}) == asked([{"messages": [USER]}])


def test_of_a_row_with_both_the_conversation_is_taken_unless_columns_say_otherwise(asked):
    rows = [{"prompt": "Hé?", "messages": [USER, ANSWER, AGAIN]}]
    assert conversations(asked(rows)) == [[USER, ANSWER, AGAIN]]
    assert [prompt.text for prompt in asked(rows, columns={"prompt": "prompt"})] == ["Hé?"]


def test_a_system_prompt_comes_first_where_there_is_none(asked):
    own = [{"role": "developer", "content": "Be brief."}, USER]
    rows = [{"messages": [USER, ANSWER]}, {"messages": [SYSTEM, USER]}, {"messages": own}]
    other = {"role": "system", "content": "Think."}
    found = conversations(asked(rows, system_prompt="Think."))
    assert found == [[other, USER], [SYSTEM, USER], own]
    rows = [{"prompt": "Hé?"}]
    found = conversations(asked(rows, system_prompt="Think.", apply_chat_template=True))
    assert found == [[other, USER]]


@pytest.mark.parametrize("apply_chat_template", [False, True])
def test_the_begin_of_text_token_is_there_once(asked, chat_tokenizer, apply_chat_template):
    chat_tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = chat_tokenizer.bos_token_id
    chat_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    chat_tokenizer.chat_template = "{{ bos_token }}" + chat_tokenizer.chat_template
    (prompt,) = asked([{"prompt": "Hé?"}], apply_chat_template=apply_chat_template)
    assert prompt.token_ids.index(bos) == 0
    assert prompt.token_ids.count(bos) == 1


def test_an_answer_makes_a_row_to_train_on(asked):
    (plain,), (chat,) = asked([{"prompt": "Hé?"}]), asked([{"messages": [SYSTEM, USER, ANSWER]}])
    assert plain.answered("No.") == {"prompt": "Hé?", "completion": "No."}
    said = {"role": "assistant", "content": "No."}
    assert chat.answered("No.") == {"messages": [SYSTEM, USER, said]}


@pytest.mark.parametrize(
    ("turns", "what"),
    [
        ([ANSWER], "have no turn"),
        ([USER, ANSWER, ANSWER], "end with a turn of `assistant`"),
        ([USER, SYSTEM], "end with a turn of `system`"),
        ([USER, {"role": "gpt", "content": "Yes."}], "end with a turn of `gpt`"),
    ],
)
def test_a_conversation_that_no_answer_can_follow_is_named(asked, turns, what):
    with pytest.raises(DataError, match=f"row 2: before the assistant's answer, `messages` {what}"):
        asked([{"messages": [USER]}, {"messages": turns}])


def test_a_tools_turn_is_answered_too(asked):
    turns = [USER, ANSWER, {"role": "tool", "content": "42"}]
    assert conversations(asked([{"messages": turns}])) == [turns]


def test_empty_messages_are_refused(asked):
    with pytest.raises(InputError, match=r"no list of \{role: .* first in row 2"):
        asked([{"messages": [USER]}, {"messages": []}])


def test_a_conversation_needs_a_chat_template(asked, tokenizer):
    with pytest.raises(DataError, match=r"no chat template; write data.chat_template: FILE\.jinja"):
        asked([{"messages": [USER]}], tokenizer)
    with pytest.raises(DataError, match=r"data\.chat_template: .* without apply_chat_template"):
        asked([{"prompt": "1+1="}], tokenizer, apply_chat_template=True)


def test_an_encoder_reads_no_conversation(asked, tiny_seq2seq, chat_tokenizer):
    config = tiny_seq2seq(chat_tokenizer, decoder_start_token_id=0).config
    with pytest.raises(DataError, match="a teacher with an encoder and a decoder reads no conv"):
        asked([{"messages": [USER]}], config=config)
    assert asked([{"prompt": "Hé?"}], config=config)[0].text == "Hé?"


@pytest.mark.parametrize("field", ["system_prompt", "chat_template"])
def test_what_plain_text_has_no_use_for_is_refused(asked, field):
    with pytest.raises(DataError, match=rf"data\.{field}: .* write apply_chat_template: true"):
        asked([{"prompt": "Hé?"}], **{field: "x"})


def test_a_row_that_the_template_refuses_is_named(asked, chat_tokenizer):
    chat_tokenizer.chat_template = (
        "{% if messages[0].content == 'bad' %}{{ raise_exception('no') }}{% endif %}x"
    )
    rows = [{"messages": [USER]}, {"messages": [{"role": "user", "content": "bad"}]}]
    with pytest.raises(InputError, match="data: row 2, `messages`: no"):
        asked(rows)


def test_a_task_is_plain_text(tokenizer, tiny_llama):
    task = AdditionTask(kind="task", num_examples=3)
    found = read_prompts(task, tokenizer, tiny_llama(tokenizer).config, seed=0)
    assert [prompt.token_ids for prompt in found] == [tokenizer(p.text).input_ids for p in found]
    assert conversations(found) == [None] * 3
