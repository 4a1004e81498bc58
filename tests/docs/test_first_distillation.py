"""The page is followed to the letter, with small models in place of those that it names."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

PAGE = (Path(__file__).parents[2] / "docs" / "first_distillation.md").read_text()
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
MODELS = {
    "Qwen/Qwen2.5-0.5B-Instruct": {"num_hidden_layers": 1, "vocab_size": 260},
    # Padded differently, as the real ones are.
    "Qwen/Qwen2.5-7B-Instruct": {"num_hidden_layers": 2, "vocab_size": 300},
}


def block(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


def commands():
    return [line.split()[1:] for line in re.findall(r"^    (llmkd .*)$", PAGE, re.MULTILINE)]


def as_user(folder, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-m", "llmkd", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{arguments}\n{done.stderr}"
    return done


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path, chat_tokenizer):
    for name, shape in MODELS.items():
        torch.manual_seed(len(name))
        config = Qwen2Config(
            **{**SMALL, **shape}, intermediate_size=32, max_position_embeddings=2048
        )
        Qwen2ForCausalLM(config).save_pretrained(tmp_path / name)
        chat_tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "my_student.yaml").write_text(block("yaml"))
    row = json.loads(block("json").splitlines()[0])
    rows = [
        {"messages": [*row["messages"][:-1], {"role": "assistant", "content": f"{n}."}]}
        for n in range(300)
    ]
    (tmp_path / "my_data").mkdir()
    for name, part in (("train", rows[:260]), ("validation", rows[260:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / "my_data" / f"{name}.jsonl").write_text(lines)
    return tmp_path


@pytest.mark.slow
def test_the_page_can_be_followed(folder):
    outputs = {" ".join(arguments): as_user(folder, *arguments) for arguments in commands()}
    deep = next(done.stderr for words, done in outputs.items() if "--deep" in words)
    assert "forward_kl" in deep
    assert deep.count("train works") == 2
    for run in ("my_student", "my_student-1"):
        stages = folder / "runs" / run / "stages"
        assert (folder / "runs" / run / "report.html").is_file()
        # Packed: far fewer sequences than rows.
        counts = json.loads((stages / "student" / "data.json").read_text())
        assert counts["num_rows"] == 260
        assert counts["num_sequences"] < 40
        assert "grad_norm/forward_kl" in read(stages / "student" / "metrics.jsonl")[0]
        student = stages / "student" / "model"
        assert AutoTokenizer.from_pretrained(student).chat_template
        AutoModelForCausalLM.from_pretrained(student)
    assert (folder / "my_student.html").is_file()
    assert (
        "stage" not in outputs["compare runs/my_student runs/my_student-1 --baseline twin"].stderr
    )


@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_kind_of_row_on_the_page_is_read(tmp_path, number):
    from llmkd.data.sources import load_rows
    from llmkd.recipe.data import DatasetRows

    path = tmp_path / "rows.jsonl"
    path.write_text(block("json").splitlines()[number] + "\n")
    (row,) = load_rows(DatasetRows(dataset_name=str(path)), seed=0).to_list()
    assert row == json.loads(path.read_text())


def test_every_page_that_is_linked_is_there():
    docs = Path(__file__).parents[2] / "docs"
    for page in docs.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (docs / link).exists(), f"{page.name}: {link}"
