"""What a kdrl stage makes of its data: prompts as others read them, routes, columns, rewards."""

import json

import pytest
import torch

from llmkd.data.cache import tokenized
from llmkd.data.prompts import PromptTokenize
from llmkd.data.tokenize import Tokenize
from llmkd.errors import InputError
from llmkd.recipe.data import DatasetSource
from llmkd.training.kdrl import build_kdrl_trainer, grpo_arguments, run_kdrl
from llmkd.training.kdrl_trainer import KDRLTrainer

FORMAT = {"kind": "format", "pattern": "[0-9].*"}
USER = {"role": "user", "content": "Hé?"}
ASSISTANT = {"role": "assistant", "content": "Yes."}
NAMED = {"role": "user", "content": "No?", "name": "Ada"}
OWN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.name is defined }} {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


@pytest.fixture
def rows(tmp_path):
    """Writes rows to a file; gives its path."""

    def write(found, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
        return str(path)

    return write


@pytest.fixture
def saved(tmp_path, tiny_llama):
    """Saves a random model with a tokenizer; gives what a recipe says of it."""

    def save(tokenizer, name="student"):
        tiny_llama(tokenizer, hidden_size=16, num_hidden_layers=1).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return {"model_name_or_path": str(tmp_path / name)}

    return save


@pytest.fixture
def steps_taken(monkeypatch, tmp_path):
    """Runs one step of a stage; gives its generation batch."""
    batches = []
    scored = KDRLTrainer.scored

    def scored_and_seen(self, rollouts, rewards):
        added = scored(self, rollouts, rewards)
        batches.append(rollouts | added)
        return added

    monkeypatch.setattr(KDRLTrainer, "scored", scored_and_seen)

    def take(stage):
        run_kdrl(stage, tmp_path / "run", name="student", seed=0)
        return batches[0]

    return take


def prompts_read(batch):
    """The student's prompts as token ids, each once, in any order."""
    pairs = zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
    return {tuple(ids[mask.bool()].tolist()) for ids, mask in pairs}


ONE_STEP = {"max_steps": 1, "num_generations": 2, "max_completion_length": 2, "save_strategy": "no"}


def one_step(kdrl_stage, model, data, **parts):
    """A stage of one step, which reads four prompts, each once."""
    grpo = {"teacher": None, "objective": {"kind": "grpo"}, "reward_funcs": [FORMAT]}
    return kdrl_stage(ONE_STEP, student=model, data=data, **grpo | parts)


CHATS = [{"messages": turns} for turns in ([USER], [USER, ASSISTANT, NAMED], [NAMED], [USER] * 3)]
QUESTIONS = [{"prompt": f"{i}+1="} for i in range(4)]


@pytest.mark.parametrize(
    ("found", "fields"),
    [
        (CHATS, {}),
        (CHATS, {"system_prompt": "Be kind.", "chat_template": "TEMPLATE"}),
        (QUESTIONS, {"apply_chat_template": True}),
        (QUESTIONS, {"apply_chat_template": True, "system_prompt": "Be kind."}),
    ],
)
def test_conversations_reach_the_student_as_a_generate_stage_renders_them(
    kdrl_stage, saved, rows, chat_tokenizer, tiny_llama, tmp_path, steps_taken, found, fields
):
    if "chat_template" in fields:
        (tmp_path / "own.jinja").write_text(OWN_TEMPLATE)
        fields = fields | {"chat_template": str(tmp_path / "own.jinja")}
    stage = one_step(kdrl_stage, saved(chat_tokenizer), {"dataset_name": rows(found), **fields})
    if "chat_template" in fields:
        chat_tokenizer.chat_template = OWN_TEMPLATE
    tokenize = PromptTokenize(chat_tokenizer, tiny_llama(chat_tokenizer).config, stage.data)
    asked, _ = tokenized(stage.data, tokenize, seed=0, progress=lambda *_: None)
    assert prompts_read(steps_taken(stage)) == {tuple(ids) for ids in asked["input_ids"]}


@pytest.mark.parametrize("template", ["$A", "<bos> $A", "$A <eos>", "<bos> $A <eos>"])
def test_plain_prompts_reach_the_student_as_sft_had_them(
    kdrl_stage, saved, rows, framed, steps_taken, template
):
    tokenizer = framed(template)
    path = rows([{**row, "completion": "9"} for row in QUESTIONS])
    sft = Tokenize(tokenizer, DatasetSource(dataset_name=path))
    examples = sft([{**row, "completion": "9"} for row in QUESTIONS])
    expected = {tuple(each.input_ids[: each.trained_spans[0]]) for each in examples}
    stage = one_step(kdrl_stage, saved(tokenizer), {"dataset_name": path})
    assert prompts_read(steps_taken(stage)) == expected


def test_rows_that_columns_say_different_kinds_of_things_of_are_read_as_they_are(
    kdrl_stage, models, rows, tmp_path
):
    answers = [5, "5", None, {"a": 1}]
    path = rows([{**row, "answer": x} for row, x in zip(QUESTIONS, answers, strict=True)])
    data = {"dataset_name": path, "keep_columns": ["answer"]}
    student = {"model_name_or_path": str(models / "student")}
    trainer = build_kdrl_trainer(one_step(kdrl_stage, student, data), tmp_path, seed=0)
    assert [row["answer"] for row in trainer.train_dataset] == answers


@pytest.mark.parametrize("trusted", [True, False])
def test_trl_runs_a_models_code_where_the_student_may(kdrl_stage, tmp_path, trusted):
    stage = kdrl_stage(student={"model_name_or_path": "student", "trust_remote_code": trusted})
    assert grpo_arguments(stage, tmp_path, seed=0).trust_remote_code is trusted


def routed_stage(kdrl_stage, models, path):
    teacher = {"model_name_or_path": str(models / "teacher")}
    names = {"even": teacher, "odd": {"model_name_or_path": str(models / "student")}}
    return kdrl_stage(
        ONE_STEP,
        teacher={"kind": "routed", "column": "domain", "teachers": names},
        data={"dataset_name": path, "keep_columns": ["answer", "domain"]},
        reward_funcs=[{"kind": "number"}, {"kind": "format", "pattern": "[02468].*"}],
        objective={"coefficient": 0.5, "mask": "group", "correct": "format"},
    )


def test_a_routed_teacher_and_a_group_mask_come_from_the_recipe(
    kdrl_stage, models, rows, steps_taken, tokenizer
):
    sums = [{"prompt": f"{i}+0=", "answer": i, "domain": ("even", "odd")[i % 2]} for i in range(4)]
    batch = steps_taken(routed_stage(kdrl_stage, models, rows(sums)))
    texts = tokenizer.batch_decode(batch["prompt_ids"], skip_special_tokens=True)
    assert batch["routes"].tolist() == [int(text[0]) % 2 for text in texts]
    said = tokenizer.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    solved = {text for text, answer in zip(texts, said, strict=True) if answer[:1] in {*"02468"}}
    is_imitated = torch.tensor([text not in solved for text in texts])
    assert is_imitated.any()
    assert not is_imitated.all()
    assert torch.equal(batch["kd_tokens"], batch["completion_mask"].bool() & is_imitated[:, None])


def test_a_row_whose_teacher_is_missing_is_told(kdrl_stage, models, rows, tmp_path):
    sums = [{"prompt": f"{i}+0=", "answer": i, "domain": "even"} for i in range(3)]
    path = rows([*sums, {"prompt": "3+0=", "answer": 3, "domain": "law"}])
    with pytest.raises(InputError, match=r"teacher\.teachers: row 4 has `domain` 'law'"):
        run_kdrl(routed_stage(kdrl_stage, models, path), tmp_path, name="student", seed=0)
