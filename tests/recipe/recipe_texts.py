"""Recipe texts that the tests of this folder share."""

ONE_STAGE = """\
name: one
kind: train
student: {kind: scratch, config: {model_type: llama, hidden_size: 64}}
data: {kind: task, task: addition, digits: 3, num_examples: 100}
losses:
  - {kind: cross_entropy}
trainer: {max_steps: 10, learning_rate: 3e-3}
"""

WHOLE = """\
name: whole
description: a teacher and a student
seed: 3
stages:
  teacher:
    kind: train
    student:
      kind: scratch
      config: {model_type: llama, hidden_size: 128}
    data: {kind: task, digits: 3, num_examples: 100}
    losses: [{kind: cross_entropy}]
    trainer:
      max_steps: 10
      learning_rate: 3e-3
      bf16: true
  teacher_data:
    kind: generate
    teacher: {model_name_or_path: stage:teacher}
    data: {kind: task, num_examples: 50, split: unlabelled}
    engine: {batch_size: 10}
    generation: {temperature: 0.5, max_completion_length: 48}
  student:
    kind: train
    student:
      model_name_or_path: hub/small
      dtype: bfloat16
      lora: {r: 8, target_modules: [q_proj, v_proj]}
    teacher: {model_name_or_path: stage:teacher, revision: main}
    data: {dataset_name: stage:teacher_data, max_length: 64, append_eos: false}
    losses:
      - kind: forward_kl
        temperature: 2.0
        weight: {kind: cosine, start: 1.0, end: 0.1, num_steps: 5}
      - {kind: jsd, teacher_weight: 0.9, temperature_scaling: none}
      - {kind: cross_entropy, weight: 1e-1, name: labels}
    trainer: {max_steps: 10, lr_scheduler_type: cosine, report_to: none}
    resume: never
  evaluation:
    kind: evaluate
    models: [stage:teacher, stage:student, hub/other]
    suite:
      name: mine
      tasks:
        - {kind: exact_match, name: sums, data: {kind: task, num_examples: 20, split: test}}
        - {kind: perplexity, name: text, data: {dataset_name: stage:teacher_data}, join_rows: true}
    batch_size: 16
"""
