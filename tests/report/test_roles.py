from llmkd.report.roles import find_roles, only_twin, teachers_of


def test_each_model_has_the_role_that_the_recipe_gives_it(make_recipe):
    recipe = make_recipe()
    assert find_roles(recipe) == {"teacher": "teacher", "twin": "twin", "student": "student"}
    assert teachers_of(recipe, "student") == ["teacher"]
    assert teachers_of(recipe, "twin") == []
    assert teachers_of(recipe, "evaluation") == []


def test_a_student_of_the_teachers_text_alone_is_a_student(make_recipe, stages):
    on_text = {**stages["twin"], "data": {"dataset_name": "stage:texts"}}
    recipe = make_recipe({**stages, "on_text": on_text})
    assert find_roles(recipe)["on_text"] == "student"
    assert teachers_of(recipe, "on_text") == ["teacher"]


def test_a_student_of_text_that_was_curated_has_the_teachers_who_wrote_it(make_recipe, stages):
    texts = {**stages["texts"], "teacher": {"model_name_or_path": "org/big"}}
    curated = {"kind": "curate", "data": {"dataset_name": "stage:voted"}}
    voted = {**curated, "data": [{"dataset_name": f"stage:{name}"} for name in ("texts", "others")]}
    on_text = {**stages["twin"], "data": {"dataset_name": "stage:curated"}}
    recipe = make_recipe(
        {**stages, "others": texts, "voted": voted, "curated": curated, "on_text": on_text}
    )
    assert find_roles(recipe)["on_text"] == "student"
    assert teachers_of(recipe, "on_text") == ["teacher", "org/big"]


def test_a_teacher_by_path_is_one_and_a_measured_stranger_is_none(make_recipe, stages):
    student = {**stages["student"], "teacher": {"model_name_or_path": "org/big"}}
    student["data"] = {"dataset_name": "rows.jsonl"}
    models = {**stages["evaluation"], "models": ["org/big", "org/other", "stage:student"]}
    roles = find_roles(make_recipe({"student": student, "evaluation": models}))
    assert roles == {"org/big": "teacher", "org/other": "other", "student": "student"}


def test_a_teacher_that_had_a_teacher_is_a_student_too(make_recipe, stages):
    assistant = {**stages["student"], "data": {"dataset_name": "rows.jsonl"}}
    student = {**assistant, "teacher": {"model_name_or_path": "stage:assistant"}}
    recipe = make_recipe({"teacher": stages["teacher"], "assistant": assistant, "small": student})
    assert find_roles(recipe) == {"teacher": "teacher", "assistant": "student", "small": "student"}
    assert teachers_of(recipe, "small") == ["assistant"]


def trained_on(stage, name):
    return {**stage, "student": {"model_name_or_path": f"stage:{name}"}}


def test_a_student_that_is_trained_on_stays_a_student_with_its_teacher(make_recipe, stages):
    del stages["evaluation"]
    stages["tuned"] = trained_on(stages["twin"], "student")
    stages["again"] = trained_on(stages["twin"], "tuned")
    roles = find_roles(make_recipe(stages))
    assert (roles["tuned"], roles["again"], roles["twin"]) == ("student", "student", "twin")
    assert teachers_of(make_recipe(stages), "again") == ["teacher"]
    assert only_twin(make_recipe(stages), ["tuned", "again", "twin"]) == "twin"


def test_what_students_twins_and_teachers_begin_from_is_no_twin(make_recipe, stages):
    twin, student = stages["twin"], stages["student"]
    parts = {
        "big": twin,
        "teacher": trained_on(twin, "big"),
        "base": twin,
        "twin": trained_on(twin, "base"),
        "texts": stages["texts"],
        "student": trained_on(student, "base"),
    }
    assert find_roles(make_recipe(parts)) == {
        "big": "other", "teacher": "teacher", "base": "other", "twin": "twin", "student": "student",
    }  # fmt: skip


def test_a_merge_of_students_is_a_student_of_their_teachers(make_recipe, stages):
    merged = {
        "kind": "merge",
        "models": ["stage:student", "stage:twin"],
        "method": {"kind": "slerp"},
    }
    added = {"kind": "task_arithmetic", "base": "stage:teacher"}
    models = [*stages["evaluation"]["models"], "stage:merged"]
    stages["merged"] = merged
    stages["evaluation"] = {**stages.pop("evaluation"), "models": models}
    recipe = make_recipe(stages)
    assert teachers_of(recipe, "merged") == ["teacher"]
    # What it is merged from has its own role, but for the twin, which is no twin of a student's start.
    assert find_roles(recipe) == {
        "teacher": "teacher", "twin": "other", "student": "student", "merged": "student",
    }  # fmt: skip
    of_base = make_recipe(
        {**stages, "merged": {**merged, "models": ["stage:student"], "method": added}}
    )
    assert find_roles(of_base)["merged"] == "student"
