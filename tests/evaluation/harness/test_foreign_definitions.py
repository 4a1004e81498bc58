"""Tasks of a stranger: what their templates, metrics and Python may do."""

import pytest
import yaml

from llmkd.errors import InputError
from llmkd.evaluation.harness.tasks import load_task
from llmkd.recipe.foreign_code import foreign_code
from llmkd.recipe.schema import EvaluateStage
from tests.evaluation.harness.conftest import WRITTEN

ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{sum}}"


@pytest.mark.parametrize("field", ["doc_to_text", "doc_to_target"])
def test_a_template_cannot_reach_into_python(make_task, field):
    with pytest.raises(InputError, match="a template reaches into Python"):
        load_task(make_task(WRITTEN | {field: ESCAPE}), seed=0)


def test_templates_do_what_lm_evals_do(make_task):
    template = "{{sum | regex_replace('[+]', ' plus ')}}\n"
    task = load_task(make_task(WRITTEN | {"doc_to_text": template}), seed=0)
    assert task.doc_to_text(task.eval_docs[1]) == "7 plus 1\n"


@pytest.mark.parametrize("fields", [{}, {"hf_evaluate": True}])
def test_a_metric_is_no_python_file(make_task, tmp_path, fields):
    ran, metric = tmp_path / "ran", tmp_path / "metric.py"
    metric.write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n")
    name = "exact_match" if fields else str(metric)
    with pytest.raises(InputError, match=r"definition.metric_list.0: lm-eval has no such metric"):
        load_task(make_task(WRITTEN | {"metric_list": [{"metric": name, **fields}]}), seed=0)
    assert not ran.exists()


def test_prompts_from_elsewhere_are_refused(make_task):
    with pytest.raises(InputError, match="use_prompt: not taken here"):
        load_task(make_task(WRITTEN | {"use_prompt": "prompts.yaml:one"}), seed=0)


def test_a_file_that_defines_a_task_counts_as_code(tmp_path):
    definition = str(tmp_path / "own.yaml")
    (tmp_path / "own.yaml").write_text("output_type: multiple_choice\n")
    task = {"kind": "lm_eval", "name": "own", "definition": definition}
    suite = {"name": "own", "tasks": [task]}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    stage = {"kind": "evaluate", "models": ["model"]}
    (code,) = foreign_code(EvaluateStage.model_validate(stage | {"suite": suite}))
    assert (code.key, code.shown) == (("suite", "tasks", 0, "definition"), definition)
    path = str(tmp_path / "suite.yaml")
    (code,) = foreign_code(EvaluateStage.model_validate(stage | {"suite": path}))
    assert (code.key, code.shown) == (("suite",), definition)
    # Its content written out is data.
    task["definition"] = WRITTEN
    assert foreign_code(EvaluateStage.model_validate(stage | {"suite": suite})) == []
    # So are the suites that come with llmkd, one of which has tasks of its own.
    for shipped in ("superglue", "glue"):
        assert foreign_code(EvaluateStage.model_validate(stage | {"suite": shipped})) == []
