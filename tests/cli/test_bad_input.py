"""Models and data that do not fit: exit status 2, one message that says what to write, no traceback."""

import json

import pytest
import torch
from safetensors.torch import load_file

RECIPE = """
name: small
kind: train
student:
  kind: scratch
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
teacher: {model_name_or_path: teacher}
data: {dataset_name: data.jsonl, max_length: 64}
losses: [{kind: forward_kl}]
trainer: {max_steps: 4, per_device_train_batch_size: 2, learning_rate: 1e-2, save_steps: 2, logging_steps: 1}
"""
ROWS = '{"text": "1+2=3;#3"}\n{"text": "12+34=46;#46"}\n{"prompt": null, "text": "7+7=14"}\n'


@pytest.fixture
def small(llmkd, tokenizer, tiny_llama):
    """The recipe with its data and its teacher, in the folder where `llmkd` runs."""
    (llmkd.folder / "small.yaml").write_text(RECIPE)
    (llmkd.folder / "data.jsonl").write_text(ROWS)
    save(tiny_llama(tokenizer), tokenizer, llmkd.folder / "teacher")
    return "small.yaml"


def save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rename_tokens(folder, names):
    """Gives tokens of a saved tokenizer other texts."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {names.get(token, token): i for token, i in vocabulary.items()}
    file.write_text(json.dumps(content))


def refusal(llmkd, *arguments):
    """The one message of a stage that is refused; the line after it names the stage.

    A new run is refused before anything runs, with the place; one that has begun finds out itself.
    """
    _, err = llmkd.run("train", *arguments, status=2)
    (line,) = err.strip().splitlines()
    assert line.startswith(("small.yaml:", "override "))
    assert not (llmkd.folder / "runs").exists()
    (llmkd.folder / "runs" / "small").mkdir(parents=True)
    _, err = llmkd.run("train", *arguments, status=2)
    assert "Traceback" not in err
    first, *messages, last = err.strip().splitlines()
    assert first == "[1/1] train: train"
    assert last == "stage train has bad input"
    (message,) = messages
    return message


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_data_set(llmkd, small, content):
    (llmkd.folder / "data.jsonl").write_text(content)
    assert refusal(llmkd, small) == (
        "data.dataset_name: data.jsonl: the data set is empty; name one with rows"
    )


def test_a_missing_column(llmkd, small):
    (llmkd.folder / "data.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    message = refusal(llmkd, small)
    assert "data.jsonl" in message
    assert "question, answer" in message
    assert "`prompt` and `completion`, or `text`" in message


def test_a_student_with_another_tokenizer_than_its_teacher(llmkd, small, tokenizer, tiny_llama):
    student = llmkd.folder / "student"
    save(tiny_llama(tokenizer), tokenizer, student)
    rename_tokens(student, {str(digit): chr(ord("a") + digit) for digit in range(10)})
    message = refusal(llmkd, small, "student={model_name_or_path: student}")
    assert "student and teacher have different tokenizers: 20 tokens differ" in message
    assert "write losses: [{kind: cross_entropy}]" in message


def test_vocabularies_that_differ_in_one_token(llmkd, small, tokenizer, tiny_llama):
    tokenizer.save_pretrained(llmkd.folder / "tokens")
    rename_tokens(llmkd.folder / "tokens", {"7": "x"})
    message = refusal(llmkd, small, "student.tokenizer_name_or_path=./tokens")
    assert "different tokenizers: 2 tokens differ, such as '7', 'x'" in message


def test_a_teacher_with_fewer_embeddings_than_tokens(llmkd, small, tokenizer, tiny_llama):
    save(tiny_llama(tokenizer, vocab_size=12), tokenizer, llmkd.folder / "teacher")
    message = refusal(llmkd, small)
    assert "teacher: the model has 12 token embeddings, its tokenizer 18 tokens" in message


def test_a_teachers_padded_vocabulary_changes_nothing(llmkd, small, tokenizer, tiny_llama):
    llmkd.run("train", small, "output_dir=plain")
    teacher = tiny_llama(tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        # Random rows beyond the tokenizer, as likely as real tokens if they were looked at.
        teacher.resize_token_embeddings(64, mean_resizing=False)
    save(teacher, tokenizer, llmkd.folder / "padded")
    llmkd.run("train", small, "teacher.model_name_or_path=./padded", "output_dir=run")
    plain, padded = (
        load_file(llmkd.folder / run / "stages/train/model/model.safetensors")
        for run in ("plain", "run")
    )
    assert plain.keys() == padded.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(padded[name], weight, rtol=1e-4, atol=1e-5)


def test_a_padded_teacher_and_a_student_from_it_share_their_real_tokens(
    llmkd, small, tokenizer, tiny_llama
):
    save(tiny_llama(tokenizer, vocab_size=64), tokenizer, llmkd.folder / "teacher")
    save(tiny_llama(tokenizer, seed=1), tokenizer, llmkd.folder / "student")
    llmkd.run("train", small, "student={model_name_or_path: ./student}")
    weights = load_file(llmkd.folder / "runs/small/stages/train/model/model.safetensors")
    assert weights["model.embed_tokens.weight"].shape[0] == len(tokenizer)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("losses=[{kind: cross_entropy}]", "no term of `losses` uses the teacher"),
        ("teacher=null", "forward_kl compares the student with a teacher, and the stage has none"),
    ],
)
def test_terms_and_teacher_that_do_not_meet(llmkd, small, override, message):
    _, err = llmkd.run("train", small, override, status=2)
    assert message in err
    assert "Traceback" not in err
    assert not (llmkd.folder / "runs").exists(), "refused before anything runs"


def test_a_changed_recipe_on_an_old_folder(llmkd, small):
    llmkd.run("train", small)
    _, err = llmkd.run("train", small, "losses.0.temperature=2", status=2)
    (line,) = err.strip().splitlines()
    assert "stages.train: losses" in line
    assert "output_dir=ANOTHER_FOLDER" in line
