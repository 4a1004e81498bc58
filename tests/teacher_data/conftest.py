"""A server that answers like `vllm serve` 0.30, from a transformers model, and fails when told to."""

import json
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import TopKCapture, TransformersEngine
from llmkd.teacher_data.transformers_teacher import TransformersTeacher
from llmkd.teachers.rollouts import Rollouts


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.answer(self, None)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.answer(self, json.loads(body))

    def reply(self, status, content, headers=()):
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    """Each request takes the next of `faults`, a function of the handler; None and no more answer it.

    `respond(path, body)` makes the answer: a status and its content.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, respond, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.respond = respond
        self.faults = deque()
        self.bodies, self.headers = [], []
        self.num_now = self.most_at_once = 0
        self.lock = threading.Lock()
        self.ends = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, handler, body):
        with self.counted(handler, body) as fault:
            if fault is not None:
                fault(handler)
            else:
                handler.reply(*self.respond(handler.path, body))

    @contextmanager
    def counted(self, handler, body):
        with self.lock:
            self.bodies.append(body)
            self.headers.append(handler.headers)
            self.num_now += 1
            self.most_at_once = max(self.most_at_once, self.num_now)
            fault = self.faults.popleft() if self.faults else None
        try:
            yield fault
        finally:
            with self.lock:
                self.num_now -= 1

    def handle_error(self, request, client_address):
        pass  # a client that has gone

    def stop(self):
        self.shutdown()
        self.server_close()
        self.ends.set()


class ModelResponses:
    """What vLLM answers for a model: completions sampled with its own seeds, and log-probabilities.

    Attributes to change: `names`, `adapters` (name to base), `max_model_len`, `max_logprobs`, `log_probs_mode`, `change` (of an answer).
    """

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.names, self.adapters = ["teacher"], {}
        self.max_model_len, self.max_logprobs = 64, 20
        self.log_probs_mode = "raw_logprobs"
        self.change = lambda choice: None
        self.lock = threading.Lock()

    def __call__(self, path, body):
        if path == "/v1/models":
            lengths = {"max_model_len": self.max_model_len, "parent": None}
            cards = [{"id": name} | lengths for name in self.names]
            cards += [
                {"id": name, "max_model_len": None, "parent": parent}
                for name, parent in self.adapters.items()
            ]
            return 200, {"object": "list", "data": cards}
        for key, what in (("logprobs", "sample"), ("prompt_logprobs", "prompt")):
            if (body.get(key) or 0) > self.max_logprobs:
                return self.error(
                    f"Requested {what} logprobs of {body[key]}, which is greater than max allowed: "
                    f"{self.max_logprobs} (parameter={key}, value={body[key]})"
                )
        prompt = body["prompt"]
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt, add_special_tokens=body["add_special_tokens"])
        if len(prompt) + body["max_tokens"] > self.max_model_len:
            return self.error(
                f"This model's maximum context length is {self.max_model_len} tokens."
            )
        with self.lock:
            choice = self.completed(prompt, body)
        self.change(choice)
        return 200, {"object": "text_completion", "choices": [choice]}

    @staticmethod
    def error(message):
        return 400, {"error": {"message": message, "type": "BadRequestError", "code": 400}}

    @torch.no_grad()
    def completed(self, prompt, body):
        draw = torch.Generator().manual_seed(body.get("seed") or 0)
        written, entries, finish, reason = [], [], "length", None
        while len(written) < body["max_tokens"] and finish == "length":
            logits = self.model(torch.tensor([prompt + written])).logits[0, -1]
            token = self.chosen(logits, body, draw)
            written.append(token)
            entries.append(self.entry(logits, token, body.get("logprobs"), body["temperature"]))
            text = self.tokenizer.decode(written, skip_special_tokens=True)
            found = [stop for stop in body.get("stop", []) if stop in text]
            if token in body.get("stop_token_ids", []) or found:
                finish, reason = "stop", found[0] if found else token
        choice = {"finish_reason": finish, "stop_reason": reason, "text": text}
        choice |= {"token_ids": written, "prompt_token_ids": prompt}
        choice["prompt_logprobs"] = self.of_prompt(prompt, body)
        choice["logprobs"] = None
        if body.get("logprobs") is not None:
            named = [{f"token_id:{token}": value for token, value in e.items()} for e in entries]
            choice["logprobs"] = {"top_logprobs": named}
        return choice

    @staticmethod
    def chosen(logits, body, draw):
        if "allowed_token_ids" in body:
            return body["allowed_token_ids"][0]
        logits = logits.clone()
        for token, bias in (body.get("logit_bias") or {}).items():
            logits[int(token)] += bias
        if body["temperature"] == 0:
            return logits.argmax().item()
        return torch.multinomial(
            (logits / body["temperature"]).softmax(-1), 1, generator=draw
        ).item()

    def entry(self, logits, token, num_kept, temperature):
        values = logits if self.log_probs_mode == "raw_logits" else logits.log_softmax(-1)
        if self.log_probs_mode == "processed_logprobs":
            values = (logits / temperature).log_softmax(-1)
        likeliest = values.topk(num_kept or 0).indices.tolist()
        # Minus infinity is no JSON.
        return {i: max(values[i].item(), -9999.0) for i in dict.fromkeys([token, *likeliest])}

    def of_prompt(self, prompt, body):
        if body.get("prompt_logprobs") is None:
            return None
        logits = self.model(torch.tensor([prompt])).logits[0]
        entries = [
            self.entry(logits[i], token, body["prompt_logprobs"], 1.0)
            for i, token in enumerate(prompt[1:])
        ]
        return [None, *({str(t): {"logprob": v} for t, v in e.items()} for e in entries)]


@pytest.fixture
def serve():
    """Starts servers that end with the test."""
    servers = []

    def start(respond, port=0):
        servers.append(Server(respond, port))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def teacher(tiny_llama, tokenizer, tmp_path):
    """A saved model, and its parts: folder, model, tokenizer."""
    # vLLM on a CPU takes heads of 32 and more.
    model = tiny_llama(
        tokenizer,
        hidden_size=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    folder = tmp_path / "teacher"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model, tokenizer


@pytest.fixture
def padded(tiny_llama, tokenizer, tmp_path):
    """A saved model whose head has 14 rows more than its tokenizer has tokens."""
    shape = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    model = tiny_llama(tokenizer, vocab_size=32, hidden_size=64, **shape)
    folder = tmp_path / "padded"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model, tokenizer


@pytest.fixture
def check_padded(padded):
    """Holds what an engine writes and scores with the padded model against transformers' engine."""

    def check(engine, prompts, top_k):
        source = PretrainedModel(model_name_or_path=str(padded[0]))
        settings = TransformersEngine(kind="transformers")
        reference = TransformersTeacher(source, settings, None, TopKCapture(top_k=top_k))
        done = engine.generate(prompts, range(len(prompts)))
        sequences = [[*prompt, *each.token_ids] for prompt, each in zip(prompts, done, strict=True)]
        assert max(map(max, sequences)) < 18
        spans = [[len(prompt), len(ids)] for prompt, ids in zip(prompts, sequences, strict=True)]
        expected = reference.score(sequences, spans)
        scored = engine.score(sequences, spans)
        for found, again, wanted in zip(done, scored, expected, strict=True):
            same_positions(found.positions, wanted)
            same_positions(again, wanted)

    return check


def same_positions(found, wanted):
    assert found.token_ids.shape == wanted.token_ids.shape
    # All rows are told where all tokens are kept; else padded rows may go unseen, with their mass.
    if found.token_ids.shape[1] < 18:
        found, wanted = relative(found), relative(wanted)
    orders = [np.argsort(each.token_ids, axis=1) for each in (found, wanted)]
    for name in ("token_ids", "log_probs"):
        columns = [
            np.take_along_axis(getattr(each, name), order, axis=1)
            for each, order in zip((found, wanted), orders, strict=True)
        ]
        np.testing.assert_allclose(*columns, atol=2e-5)
    np.testing.assert_array_equal(found.tail_log_prob, wanted.tail_log_prob)
    np.testing.assert_allclose(found.label_log_prob, wanted.label_log_prob, atol=2e-5)


def relative(positions):
    """All to the likeliest, without the tail."""
    most = positions.log_probs.max(axis=1)
    return replace(
        positions,
        log_probs=positions.log_probs - most[:, None],
        label_log_prob=positions.label_log_prob - most,
        tail_log_prob=0 * most,
    )


@pytest.fixture
def rollouts():
    """Prompts padded on the left, completions on the right; 2 ends them."""
    return Rollouts(
        prompt_ids=torch.tensor([[0, 0, 7], [4, 5, 6], [0, 8, 9]]),
        prompt_mask=torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 1]]),
        completion_ids=torch.tensor([[8, 9, 2, 0], [10, 2, 0, 0], [4, 5, 6, 7]]),
        completion_mask=torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]),
    )


@pytest.fixture
def vllm_server(teacher, serve):
    """A server of the teacher."""
    _, model, tokenizer = teacher
    return serve(ModelResponses(model, tokenizer))


@pytest.fixture
def check_positions():
    """Holds what was captured of a sequence, at some places, against transformers' log-softmax."""

    def check(positions, ids, places, model, top_k, atol=1e-5):
        with torch.no_grad():
            whole = model(torch.tensor([ids])).logits[0].log_softmax(-1).double().numpy()
        assert positions.token_ids.shape == (len(places), top_k)
        for row, place in enumerate(places):
            expected, kept = whole[place - 1], positions.token_ids[row]
            assert set(kept) == set(np.argsort(-expected)[:top_k])
            np.testing.assert_allclose(positions.log_probs[row], expected[kept], atol=atol)
            rest = np.delete(expected, kept)
            tail = np.logaddexp.reduce(rest) if len(rest) else -np.inf
            np.testing.assert_allclose(positions.tail_log_prob[row], tail, atol=atol)
            np.testing.assert_allclose(
                positions.label_log_prob[row], expected[ids[place]], atol=atol
            )

    return check
