"""Keys and tokens are in no file of a run, and in no message."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmkd.errors import InputError
from llmkd.recipe import load

RECIPE = """
name: secretive
stages:
  model:
    kind: train
    student:
      kind: scratch
      config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
    data: &data {kind: task, digits: 1, num_examples: 20}
    losses: [{kind: cross_entropy}]
    trainer: {max_steps: 2, per_device_train_batch_size: 4, report_to: tensorboard}
  measured:
    kind: evaluate
    models: [stage:model]
    suite:
      name: sums
      tasks: [{kind: exact_match, name: sums, data: {kind: task, digits: 1, num_examples: 5, split: test}, max_completion_length: 5}]
  asked:
    kind: generate
    teacher: {model_name_or_path: stage:model}
    data: {kind: task, digits: 1, num_examples: 5, split: unlabelled}
    engine: {kind: server, base_url: URL, api_key_variable: SERVER_KEY, max_retries: 0}
"""
VARIABLES = ("HF_TOKEN", "WANDB_API_KEY", "COMET_API_KEY", "SERVER_KEY", "OPENAI_API_KEY")


@pytest.fixture
def repeating():
    """The address of a server that refuses every request, and says what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            said = json.dumps({"error": {"message": f"not {self.headers['authorization']}"}})
            self.send_response(401)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_no_secret_of_the_environment_is_written_or_printed(llmkd, repeating, monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, f"secret-of-{name}")
    (llmkd.folder / "secretive.yaml").write_text(RECIPE.replace("URL", repeating))
    out, err = llmkd.run("train", "secretive.yaml", "--debug", status=2)
    assert "refuses the key (401 not Bearer ***)" in err
    out += llmkd.run("report", "runs/secretive")[0]
    files = [path for path in (llmkd.folder / "runs").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    expected = {
        "environment.json",
        "recipe.resolved.yaml",
        "report.html",
        "README.md",
        "stage.json",
    }
    assert expected <= names
    told = [path.read_bytes() for path in files] + [out.encode(), err.encode()]
    assert not [content for content in told if b"secret-of-" in content]


@pytest.mark.parametrize(
    "override",
    [
        "stages.model.trainer.hub_token=hf_secret",
        "stages.model.trainer.push_to_hub_token=hf_secret",
        "stages.asked.engine.base_url=http://me:hf_secret@127.0.0.1:1",
        "stages.asked.engine.api_key=hf_secret",
        "stages.model.student.token=hf_secret",
    ],
)
def test_a_secret_in_the_recipe_is_refused_and_not_repeated(llmkd, override):
    path = llmkd.folder / "secretive.yaml"
    path.write_text(RECIPE.replace("URL", "http://127.0.0.1:1"))
    load(path)
    with pytest.raises(InputError) as error:
        load(path, [override])
    assert "hf_secret" not in str(error.value)
