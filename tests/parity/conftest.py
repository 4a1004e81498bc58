"""The same training by one process, and by two of each engine."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from llmkd.data.addition import build_tokenizer
from llmkd.launch import launch_of
from llmkd.recipe import load
from llmkd.run_plan import Run
from llmkd.run_stage import run_stage

ENGINES = {
    "ddp": "DistributedDataParallel, 2 processes",
    "zero1": "DeepSpeedEngine, ZeRO stage 1, 2 processes",
    "zero2": "DeepSpeedEngine, ZeRO stage 2, 2 processes",
    "zero3": "DeepSpeedEngine, ZeRO stage 3, 2 processes",
    "fsdp2": "DTensor parameters, 2 processes",
}
"""What looks like one engine can silently be another: each says what it is."""
WORKLOADS = ("forward_kl", "store", "seq2seq", "lora", "kdrl", "sharded", "half")


@dataclass(frozen=True)
class Trained:
    """What a training leaves."""

    folder: Path

    @property
    def log(self):
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def weights(self):
        return load_file(self.folder / "model" / "model.safetensors")


class Bench:
    """Recipes in a folder of their own, and who trains them."""

    def __init__(self, root):
        self.root = root
        self.references: dict[str, Trained] = {}
        self.number = 0

    def recipe(self, name, workload, num_processes):
        """Writes a workload's recipe, for a whole batch of 8 rows; returns its path."""
        stage = STAGES[workload](self.root)
        if num_processes == 2 and workload != "kdrl":
            # Two micro-batches of two processes.
            stage["trainer"] |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        path = self.root / f"{name}.yaml"
        output = {"name": name, "output_dir": str(self.root / name)}
        path.write_text(yaml.safe_dump({**output, "stages": {"student": stage}}))
        return path

    def reference(self, workload):
        """What one process trains; of KDRL what two do by DDP."""
        if workload not in self.references:
            is_alone = workload != "kdrl"
            one = self.alone if is_alone else lambda x: self.launched("ddp", [x])[0][x]
            self.references[workload] = one(workload)
        return self.references[workload]

    def alone(self, workload):
        """Trains in this process."""
        job = Run(load(self.recipe(f"{workload}-alone", workload, 1)))
        run_stage(job, "student")
        return Trained(job.stage_folder("student"))

    def launched(self, engine, workloads):
        """Trains the workloads in the same two processes; returns them, and what was said."""
        self.number += 1
        names = {workload: f"{workload}-{engine}-{self.number}" for workload in workloads}
        recipes = [str(self.recipe(name, workload, 2)) for workload, name in names.items()]
        jobs = self.root / f"{engine}.json"
        jobs.write_text(json.dumps(recipes))
        launch = launch_of(engine, num_processes=2)
        done = subprocess.run(
            launch.command("parity_jobs", str(jobs)),
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-5000:]
        folders = {w: Trained(self.root / name / "stages" / "student") for w, name in names.items()}
        return folders, done.stderr


TRAINER = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}


def rows_in(root):
    # 22 rows in steps of 8: of the last one's four micro-batches of 2, one is there a second time.
    return {"dataset_name": str(root / "rows.jsonl"), "max_length": 64}


def forward_kl(root):
    return {
        "kind": "train",
        "student": {"kind": "scratch", "config": {"model_type": "llama", **LLAMA}},
        "teacher": {"model_name_or_path": str(root / "llama")},
        "data": rows_in(root),
        "losses": [
            {"kind": "forward_kl", "temperature": 2.0},
            {"kind": "cross_entropy", "weight": 0.3},
        ],
        "trainer": TRAINER.copy(),
    }


def store(root):
    """A packed row may have no token that is trained on."""
    teacher = {"kind": "store", "path": str(root / "scored" / "stages" / "said")}
    losses = [{"kind": "forward_kl", "weight": 1.0}]
    return forward_kl(root) | {"teacher": teacher, "losses": losses}


def seq2seq(root):
    student = {"kind": "scratch", "config": {"model_type": "t5", **T5}}
    teacher = {"model_name_or_path": str(root / "t5")}
    return forward_kl(root) | {"student": student, "teacher": teacher}


def lora(root):
    student = {"model_name_or_path": str(root / "small"), "lora": {"r": 4}}
    return forward_kl(root) | {"student": student}


def kdrl(root):
    return {
        "kind": "kdrl",
        "student": {"model_name_or_path": str(root / "small")},
        "teacher": {"model_name_or_path": str(root / "llama")},
        "data": {"kind": "task", "digits": 1, "num_examples": 20, "keep_columns": ["answer"]},
        "reward_funcs": [{"kind": "length", "max_length": 5, "soft_length": 5}],
        "objective": {"coefficient": 0.5},
        "trainer": {
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "num_generations": 4,
            "max_completion_length": 5,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
        },
    }


def sharded(root):
    """The teacher in parts too; heads share their weights with embeddings, the teacher's is padded."""
    config = {"model_type": "llama", **LLAMA, "tie_word_embeddings": True}
    return forward_kl(root) | {
        "student": {"kind": "scratch", "config": config},
        # On a CPU its parts wait where they run.
        "teacher": {"model_name_or_path": str(root / "tied"), "sharded": True, "offload": "cpu"},
    }


def half(root):
    """Computed in half precision, with activations computed again."""
    stage = forward_kl(root)
    stage["trainer"] |= {"bf16": True, "gradient_checkpointing": True}
    return stage


STAGES = {f.__name__: f for f in (forward_kl, store, seq2seq, lora, kdrl, sharded, half)}


@pytest.fixture(scope="session")
def bench(tmp_path_factory, tiny_llama, tiny_seq2seq):
    """The models, the rows, and what the teacher said of them."""
    root, tokenizer = tmp_path_factory.mktemp("parity"), build_tokenizer()
    models = {
        "llama": tiny_llama(tokenizer),
        "tied": tiny_llama(tokenizer, seed=2, vocab_size=24, tie_word_embeddings=True),
        "small": tiny_llama(tokenizer, seed=1, hidden_size=16),
        "t5": tiny_seq2seq(tokenizer, "t5", dropout_rate=0.0),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    rows = [{"prompt": "1+2=" * (1 + i % 5), "completion": "3" * (1 + i % 7)} for i in range(22)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = {
        "kind": "score",
        "teacher": {"model_name_or_path": str(root / "llama")},
        "engine": {"kind": "transformers"},
        "data": rows_in(root),
        "capture": {"kind": "top_k", "top_k": 5},
    }
    (root / "scored.yaml").write_text(
        yaml.safe_dump(
            {"name": "scored", "output_dir": str(root / "scored"), "stages": {"said": said}}
        )
    )
    run_stage(Run(load(root / "scored.yaml")), "said")
    return Bench(root)
