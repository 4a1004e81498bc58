"""What counts as code of a recipe's author, and that it runs with `--allow-code` only."""

import ast
from pathlib import Path

import pytest

import llmkd
from llmkd import pipeline
from llmkd.errors import InputError
from llmkd.recipe.foreign_code import foreign_code, refuse_code
from llmkd.recipe.load import checked_recipe
from llmkd.recipe.training_arguments import package_folder

DATA = {"kind": "task", "digits": 1, "num_examples": 9}
TRAINED = {
    "kind": "train",
    "student": {"model_name_or_path": "student"},
    "teacher": {"model_name_or_path": "teacher"},
    "data": DATA,
    "losses": [{"kind": "forward_kl"}],
    "trainer": {"max_steps": 1},
}
SERVER = {"kind": "server", "base_url": "http://localhost:8000"}
TRUSTED = {"trust_remote_code": True}
STAGES = {
    "student": TRAINED | {"student": {"model_name_or_path": "m"} | TRUSTED},
    "teacher": TRAINED | {"teacher": {"model_name_or_path": "m"} | TRUSTED},
    "served": TRAINED
    | {"teacher": {"model_name_or_path": "m", "kind": "server", "server": SERVER} | TRUSTED},
    "asked": {
        "kind": "generate",
        "teacher": {"model_name_or_path": "m"} | TRUSTED,
        "data": DATA,
    },
    "pruned": {
        "kind": "prune",
        "model": {"model_name_or_path": "m"} | TRUSTED,
        "data": DATA,
        "depth": {"remove_layers": 1},
    },
    "measured": {"kind": "evaluate", "models": ["m"], "suite": "procedural"} | TRUSTED,
}


def recipe(stage):
    return checked_recipe({"name": "foreign", "stages": {"one": stage}})


@pytest.mark.parametrize("name", STAGES)
def test_a_models_code_counts_wherever_a_recipe_names_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = recipe(STAGES[name])
    (code,) = foreign_code(found.stages["one"], ("stages", "one"))
    assert code.key[-1] == "trust_remote_code"
    assert code.shown == "the code of m"
    with pytest.raises(InputError, match=r"trust_remote_code: runs `the code of m`.*--allow-code"):
        pipeline.run(found)
    assert not (tmp_path / "runs" / "foreign" / "stages").exists()


def test_a_recipe_that_trusts_nobody_has_no_code():
    refuse_code(recipe(TRAINED), ["one"])


@pytest.mark.parametrize(
    ("file", "problems"),
    [("global_step7/x.pt", 1), ("optimizer_0/.metadata", 1), ("optimizer.pt", 0)],
)
def test_a_checkpoint_whose_pickles_may_call_counts_as_code(tmp_path, file, problems):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    found = foreign_code(recipe(TRAINED | {"resume": str(tmp_path)}).stages["one"])
    assert len(found) == problems
    assert [code.key for code in found] == [("resume",)] * problems


def test_no_model_is_loaded_without_saying_whether_its_code_runs():
    """Left out, transformers asks on stdin."""
    calls = [
        (path.name, node.lineno)
        for path in Path(llmkd.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func)
        in ("AutoConfig.from_pretrained", "AutoTokenizer.from_pretrained")
        and "trust_remote_code" not in {word.arg for word in node.keywords}
    ]
    assert calls == []


def test_yaml_is_read_by_safe_loaders_only():
    """A name of a loader that makes objects is nowhere; what lm-eval adds are functions' names."""
    unsafe = {"full_load", "unsafe_load", "FullLoader", "UnsafeLoader", "Loader", "load_all"}
    used = [
        (path.name, ast.unparse(node))
        for path in Path(llmkd.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) == "yaml"
        and node.attr in unsafe
    ]
    assert used == []


@pytest.mark.parametrize("module", ["trainer", "trainer_utils", "trainer_pt_utils"])
def test_transformers_reads_tensors_alone_of_a_checkpoints_pickles(module):
    """What docs/safety.md says of `resume`; another version may do otherwise."""
    path = package_folder("transformers") / f"{module}.py"
    unsafe = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and "torch.load" in (ast.unparse(node.func), *map(ast.unparse, node.args))
        and "weights_only=True" not in [ast.unparse(word) for word in node.keywords]
    ]
    assert unsafe == []
