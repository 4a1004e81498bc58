"""One rank of a KDRL training: `ranks.py FOLDER` with `student` and `teacher` in it.

Leaves `rank-N.pt` there: the micro-batches that it saw, and the weights after the step.
"""

import sys
from pathlib import Path

import datasets
import torch
from conftest import CONFIG, Recording, begins_even
from transformers import AutoModelForCausalLM
from trl import GRPOConfig

from llmkd.data.addition import build_tokenizer
from llmkd.schedules import constant
from llmkd.teachers.in_process import InProcessTeacher
from llmkd.teachers.routed import RoutedTeacher
from llmkd.training.kdrl_trainer import Distillation

SIZES = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    # One group, which both ranks have a half of.
    "num_generations": 16,
}


def main(folder: Path) -> None:
    tokenizer = build_tokenizer()
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(folder / name) for name in ("student", "teacher")
    )
    teacher = InProcessTeacher(teacher, vocab_size=len(tokenizer))
    trainer = Recording(
        distillation=Distillation(
            RoutedTeacher("digits", {"12": teacher, "56": teacher}),
            constant(0.5),
            mask="response",
            reward_weight=constant(0.0),
        ),
        model=student,
        reward_funcs=begins_even,
        args=GRPOConfig(output_dir=str(folder), **(CONFIG | SIZES)),
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": "12+34=", "digits": "12"}, {"prompt": "56+78=", "digits": "56"}]
        ),
        processing_class=tokenizer,
    )
    trainer.seen = []
    trainer.train()
    rollouts = [rollouts for _, rollouts in trainer.seen]
    weights = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    torch.save((rollouts, weights), folder / f"rank-{trainer.args.process_index}.pt")
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
