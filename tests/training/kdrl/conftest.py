"""Tiny KDRL trainings: real rollouts of random models on sums, and what they did to the weights."""

import copy

import datasets
import pytest
import torch
from trl import GRPOConfig

from llmkd.data.addition import build_tokenizer, make_rows
from llmkd.recipe.data import AdditionTask
from llmkd.recipe.kdrl import KDRLStage
from llmkd.schedules import constant
from llmkd.teachers.in_process import InProcessTeacher
from llmkd.training.kdrl_trainer import Distillation, KDRLTrainer

CONFIG = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 6,
    "max_steps": 1,
    # The step of plain gradient descent, so that what it changes is the gradient.
    "optim": "sgd",
    "learning_rate": 1.0,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}


STAGE_TRAINER = {
    "max_steps": 6,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 6,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "save_steps": 1,
    "save_total_limit": 9,
}


def begins_even(completions, **_):
    """A reward that random models earn now and then."""
    return [float(text[:1] in {"0", "2", "4", "6", "8"}) for text in completions]


class Recording(KDRLTrainer):
    """Keeps each micro-batch with the weights that it met."""

    def total(self, policy, scores, rollouts):
        model = copy.deepcopy(self.model)
        for module in model.modules():
            # TRL's own, which is still the original model's.
            module.__dict__.pop("forward", None)
        self.seen.append((model, rollouts))
        return super().total(policy, scores, rollouts)


@pytest.fixture
def prompts():
    task = AdditionTask.model_validate({"kind": "task", "digits": 2, "num_examples": 16})
    return datasets.Dataset.from_list([{"prompt": row["prompt"]} for row in make_rows(task, 0)])


@pytest.fixture
def teacher(tokenizer, tiny_llama):
    """Of another hidden size than the student; its padded vocabulary is cropped."""
    model = tiny_llama(tokenizer, seed=1, hidden_size=48, vocab_size=64)
    return InProcessTeacher(model, vocab_size=len(tokenizer))


@pytest.fixture
def distillation(teacher):
    def make(coefficient=0.5, *, reward_weight=1.0, **parts):
        return Distillation(
            teacher,
            coefficient=constant(coefficient),
            reward_weight=constant(reward_weight),
            **parts,
        )

    return make


@pytest.fixture(scope="session")
def models(tmp_path_factory, tiny_llama):
    """A folder with a saved `student` and a `teacher` of another size, both random."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), build_tokenizer()
    for seed, (name, hidden_size) in enumerate([("student", 16), ("teacher", 32)]):
        model = tiny_llama(tokenizer, seed=seed, hidden_size=hidden_size, num_hidden_layers=1)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def kdrl_stage(models):
    """Makes a kdrl stage on sums; keyword arguments replace its parts, `trainer` is merged."""

    def make(trainer=None, **parts):
        whole = {
            "kind": "kdrl",
            "student": {"model_name_or_path": str(models / "student")},
            "teacher": {"model_name_or_path": str(models / "teacher")},
            "data": {"kind": "task", "digits": 2, "num_examples": 5, "keep_columns": ["answer"]},
            # A random student never has the right sum, but shorter and longer responses.
            "reward_funcs": [
                {"kind": "number"},
                {"kind": "length", "max_length": 6, "soft_length": 6},
            ],
            "objective": {"coefficient": 0.5},
        } | parts
        return KDRLStage.model_validate(whole | {"trainer": STAGE_TRAINER | (trainer or {})})

    return make


@pytest.fixture
def trained(tokenizer, tiny_llama, prompts, tmp_path):
    """Trains a random student; gives the trainer, with the micro-batches that it saw."""

    def train(
        distillation=None, *, kind=Recording, student=None, resume=None, rows=prompts, **config
    ):
        student = student or tiny_llama(tokenizer)
        arguments = {
            "model": student,
            "reward_funcs": begins_even,
            "args": GRPOConfig(output_dir=str(tmp_path), **(CONFIG | config)),
            "train_dataset": rows,
            "processing_class": tokenizer,
        }
        if issubclass(kind, KDRLTrainer):
            arguments["distillation"] = distillation
        trainer = kind(**arguments)
        trainer.seen = []
        trainer.before = {name: p.detach().clone() for name, p in student.named_parameters()}
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        return trainer

    return train


@pytest.fixture
def gradients():
    """What a step of plain gradient descent did to the weights: the step's gradient."""

    def of(trainer):
        return {
            name: trainer.before[name] - p.detach()
            for name, p in trainer.model.named_parameters()
            if p.requires_grad
        }

    return of


@pytest.fixture
def by_hand(teacher, tokenizer):
    """The gradient of the distillation term alone, from both models' dense logits."""

    def compute(seen, *, coefficient=0.5, mask="none", term=None, share=None):
        solved = _solved([rollouts for _, rollouts in seen], tokenizer)
        kept = [_kept(rollouts, mask, solved, tokenizer) for _, rollouts in seen]
        count = sum(int(k.sum()) for k in kept) if share is None else share
        total = {}
        for (model, rollouts), tokens in zip(seen, kept, strict=True):
            model.zero_grad()
            values = (term or k2)(*_dense(model, teacher, rollouts), rollouts)
            (coefficient * values[tokens].sum() / count).backward()
            for name, p in model.named_parameters():
                if p.requires_grad:
                    total[name] = total.get(name, 0) + p.grad
        return total

    return compute


def k2(student, teacher, rollouts):
    """Half the squared log-ratio of the drawn tokens; of an older student's with the ratio."""
    ids = rollouts["completion_ids"].unsqueeze(-1)
    q, p = (x.gather(-1, ids).squeeze(-1) for x in (student, teacher))
    old = rollouts.get("old_per_token_logps")
    ratio = 1 if old is None else (q - old).exp().detach()
    return ratio * (q - p) ** 2 / 2


def _dense(model, teacher, rollouts):
    """Log-softmax of both models' logits where the completion's tokens came."""
    ids = torch.cat([rollouts["prompt_ids"], rollouts["completion_ids"]], 1)
    mask = torch.cat([rollouts["prompt_mask"], rollouts["completion_mask"]], 1)
    length = rollouts["completion_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1]
    with torch.no_grad():
        of_teacher = teacher.model(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1]
    return logits.log_softmax(-1), of_teacher[..., : teacher.vocab_size].log_softmax(-1)


def _texts(rollouts, tokenizer):
    prompts = [
        tuple(ids[m.bool()].tolist())
        for ids, m in zip(rollouts["prompt_ids"], rollouts["prompt_mask"], strict=True)
    ]
    texts = tokenizer.batch_decode(rollouts["completion_ids"], skip_special_tokens=True)
    return prompts, begins_even(texts)


def _solved(batches, tokenizer):
    """The prompts to which any of the micro-batches has a right response."""
    pairs = [
        pair for rollouts in batches for pair in zip(*_texts(rollouts, tokenizer), strict=True)
    ]
    return {prompt for prompt, is_right in pairs if is_right}


def _kept(rollouts, mask, solved, tokenizer):
    """The tokens to imitate, worked out from texts and prompts alone."""
    prompts, right = _texts(rollouts, tokenizer)
    rows = {
        "none": [True] * len(right),
        "response": [not r for r in right],
        "group": [prompt not in solved for prompt in prompts],
    }[mask]
    return rollouts["completion_mask"].bool() & torch.tensor(rows)[:, None]
