import datetime
import email.utils
import threading
import traceback

import pytest

from llmkd.errors import InputError, LlmkdError
from llmkd.recipe.teacher_data import ServerEngine
from llmkd.teacher_data.server_client import PassingError, RefusedError, Request, ServerClient

WAIT_S = 30
"""For what must happen at once; no test takes as long."""


@pytest.fixture
def connect():
    """Makes clients that note how long they would wait, rather than wait; `on_wait` is called."""
    clients = []

    def make(server, on_wait=lambda seconds: None, key="engine", **settings):
        async def sleep(seconds):
            client.waits.append(seconds)
            on_wait(seconds)

        settings = {"kind": "server", "base_url": server.url} | settings
        client = ServerClient(ServerEngine.model_validate(settings), sleep, key=key)
        client.waits = []
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


def echo(path, body):
    return 200, {"path": path, "body": body}


def posts(count):
    return [Request("/echo", lambda answer: answer["body"]["n"], {"n": n}) for n in range(count)]


def failing(status, message="no", **headers):
    names = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return lambda handler: handler.reply(status, {"error": {"message": message}}, names)


def hang_up(handler):
    handler.close_connection = True
    handler.connection.close()


def hang_up_half_way(handler):
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"body"')
    hang_up(handler)


def never(handler):
    handler.server.ends.wait(WAIT_S)


def test_answers_are_in_the_order_of_the_requests_whichever_comes_first(serve, connect):
    later_is_there = threading.Event()

    def respond(path, body):
        if body["n"] == 0:
            assert later_is_there.wait(WAIT_S)
        else:
            later_is_there.set()
        return echo(path, body)

    assert connect(serve(respond)).ask(posts(8), max_concurrency=2) == list(range(8))


@pytest.mark.parametrize("limit", [1, 3])
def test_so_many_requests_are_under_way_at_once_and_no_more(serve, connect, limit):
    together = threading.Barrier(limit)

    def respond(path, body):
        together.wait(WAIT_S)
        return echo(path, body)

    server = serve(respond)
    assert connect(server).ask(posts(3 * limit), max_concurrency=limit) == list(range(3 * limit))
    assert server.most_at_once == limit


@pytest.mark.parametrize(
    "fault",
    [
        failing(500),
        failing(503),
        failing(429),
        failing(408),
        hang_up,
        hang_up_half_way,
        lambda handler: handler.reply(200, "<html>"),
    ],
)
def test_a_request_is_sent_again_after_a_fault_that_may_pass(serve, connect, fault):
    server = serve(echo)
    server.faults.extend([fault, fault])
    client = connect(server)
    assert client.ask(posts(3)) == [0, 1, 2]
    assert len(server.bodies) == 5
    # Twice as long each time, cut at random by up to a half.
    assert len(client.waits) == 2
    assert 0.5 <= client.waits[0] <= 1.0 <= client.waits[1] <= 2.0


def test_waits_stop_growing_after_a_minute(serve, connect):
    server = serve(echo)
    server.faults.extend([failing(500)] * 10)
    client = connect(server, max_retries=10)
    assert client.ask(posts(1)) == [0]
    assert all(30 <= wait <= 60 for wait in client.waits[6:])
    assert len(set(client.waits[6:])) > 1


def test_what_a_reader_finds_unusable_is_asked_again(serve, connect):
    found = iter([PassingError("cut short"), None])

    def read(answer):
        if error := next(found):
            raise error
        return answer["body"]

    assert connect(serve(echo)).ask([Request("/", read, {"n": 1})]) == [{"n": 1}]


def test_the_server_may_say_in_seconds_or_by_a_date_when_to_come_back(serve, connect):
    server = serve(echo)
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    date = email.utils.format_datetime(later, usegmt=True)
    server.faults.extend([failing(429, retry_after="17"), failing(503, retry_after=date)])
    client = connect(server)
    assert client.ask(posts(1)) == [0]
    assert client.waits[0] == 17
    assert 90 < client.waits[1] <= 100


@pytest.mark.parametrize("said", ["soon", "\u00b2", "Mon, 01 Jan 0001 00:00:00 -0000"])
def test_a_date_that_is_none_is_not_looked_at(serve, connect, said):
    server = serve(echo)
    server.faults.append(failing(429, retry_after=said))
    client = connect(server)
    assert client.ask(posts(1)) == [0]
    assert client.waits[0] <= 1


@pytest.mark.parametrize("timeout_s", [0.5, 600.0])
@pytest.mark.parametrize("wanted", ["86400", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_no_server_makes_a_client_wait_for_ever(serve, connect, timeout_s, wanted):
    server = serve(echo)
    server.faults.append(failing(429, retry_after=wanted))
    client = connect(server, timeout_s=timeout_s)
    assert client.ask(posts(1)) == [0]
    assert client.waits == [max(60, timeout_s)]


def test_a_slow_answer_is_given_up_and_asked_for_again(serve, connect):
    server = serve(echo)
    server.faults.append(never)
    client = connect(server, timeout_s=0.3)
    assert client.ask(posts(1)) == [0]
    assert len(server.bodies) == 2


def test_an_answer_that_trickles_in_is_given_up_too(serve, connect):
    def trickle(handler):
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        while not handler.server.ends.wait(0.05):
            handler.wfile.write(b" ")

    server = serve(echo)
    server.faults.append(trickle)
    assert connect(server, timeout_s=0.5).ask(posts(1)) == [0]
    assert len(server.bodies) == 2


def test_a_server_that_goes_away_and_comes_back_is_ridden_out(serve, connect):
    first = serve(echo)
    again = []

    def on_wait(seconds):
        # However the waits fall on the three requests, none has been asked for the ninth time.
        if len(client.waits) == 6:
            again.append(serve(echo, first.server_port))

    def hang_up_for_good(handler):
        threading.Thread(target=first.stop).start()
        first.ends.wait(WAIT_S)
        hang_up(handler)

    first.faults.extend([None] + [hang_up_for_good] * 3)
    client = connect(first, on_wait)
    assert client.ask(posts(9), max_concurrency=3) == list(range(9))
    assert again[0].bodies


def test_after_so_many_retries_the_run_fails_and_says_what_to_do(serve, connect):
    server = serve(echo)
    server.faults.extend([failing(500, "engine is dead")] * 4)
    message = r"asked 4 times \(500 engine is dead\); start it \(`vllm serve MODEL`\)"
    with pytest.raises(LlmkdError, match=message) as caught:
        connect(server, max_retries=3).ask(posts(1))
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    "content",
    [
        '{"error": {"message": "too long", "code": 400}}',
        '{"object": "error", "message": "too long"}',
        "too long",
    ],
)
def test_a_refusal_is_final_and_in_the_servers_words(serve, connect, content):
    server = serve(lambda path, body: (400, content))
    with pytest.raises(RefusedError, match=r"/echo refuses the request: 400 too long$"):
        connect(server).ask(posts(1))
    assert len(server.bodies) == 1


def test_a_refusal_ends_the_other_requests_too(serve, connect):
    server = serve(echo)
    server.faults.extend([never, failing(404), never])
    with pytest.raises(RefusedError, match="404"):
        connect(server).ask(posts(20), max_concurrency=3)
    assert len(server.bodies) <= 4


def test_messages_name_the_key_that_a_recipe_has(serve, connect):
    server = serve(echo)
    client = connect(server, key="teacher.server", max_retries=0)
    messages = {
        500: r"^teacher\.server\.base_url: .* teacher\.server\.timeout_s or teacher\.server\.max_r",
        404: r"^teacher\.server\.base_url: ",
        403: r"^teacher\.server\.api_key_variable: ",
    }
    for status, message in messages.items():
        server.faults.append(failing(status))
        with pytest.raises(LlmkdError, match=message):
            client.ask(posts(1))
    with pytest.raises(InputError, match=r"^teacher\.server\.api_key_variable: "):
        connect(server, key="teacher.server", api_key_variable="LLMKD_TEST_NO_KEY")


def test_the_key_of_the_environment_is_sent(serve, connect, monkeypatch):
    server = serve(echo)
    with pytest.raises(InputError, match="the environment has no LLMKD_TEST_KEY"):
        connect(server, api_key_variable="LLMKD_TEST_KEY")
    monkeypatch.setenv("LLMKD_TEST_KEY", "secret")
    client = connect(server, api_key_variable="LLMKD_TEST_KEY")
    client.ask(posts(1))
    assert server.headers[0]["authorization"] == "Bearer secret"
    server.faults.append(failing(401, "wrong key"))
    with pytest.raises(RefusedError, match=r"engine\.api_key_variable.*401 wrong key"):
        client.ask(posts(1))


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_the_address_may_end_in_v1(serve, connect, end):
    server = serve(echo)
    client = connect(server, base_url=server.url + end)
    assert client.ask([Request("/v1/models", lambda answer: answer["path"])]) == ["/v1/models"]


def test_a_redirect_is_told_and_not_followed(serve, connect, monkeypatch):
    monkeypatch.setenv("KEY", "secret-key")
    other, server = serve(echo), serve(echo)
    server.faults.append(failing(307, location=f"{other.url}/echo"))
    with pytest.raises(RefusedError, match=f"sends to {other.url}/echo, which is not followed"):
        connect(server, api_key_variable="KEY").ask(posts(1))
    assert server.headers[0]["authorization"] == "Bearer secret-key"
    assert other.headers == []


def test_a_proxy_of_the_environment_gets_no_plain_request(serve, connect, monkeypatch):
    proxy, server = serve(echo), serve(echo)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert connect(server).ask(posts(1)) == [0]
    assert proxy.headers == []


def no_http(handler):
    handler.wfile.write(b"secret/key is no protocol\r\n\r\n")
    hang_up(handler)


REPEATING = {
    "refused key": failing(401, "the key secret/key is not known"),
    "refused request": failing(400, "not for secret/key"),
    "redirect": failing(307, location="http://elsewhere/secret%2Fkey?k=secret/key"),
    "busy": failing(503, "secret/key has to wait"),
    "no HTTP": no_http,
}


@pytest.mark.parametrize("how", REPEATING)
def test_a_key_that_a_server_repeats_is_not_told(serve, connect, monkeypatch, capfd, how):
    monkeypatch.setenv("KEY", "secret/key")
    server = serve(echo)
    server.faults.extend([REPEATING[how]] * 2)
    with pytest.raises(LlmkdError, match=r"\*\*\*") as raised:
        connect(server, api_key_variable="KEY", max_retries=1).ask(posts(1))
    told = "".join(traceback.format_exception(raised.value)) + capfd.readouterr().err
    assert "secret/key" not in told
    assert "secret%2Fkey" not in told


def test_a_key_that_a_servers_answer_repeats_is_not_told(serve, connect, monkeypatch):
    monkeypatch.setenv("KEY", "secret/key")

    def read(answer):
        raise InputError(f"no such model: {answer['model']}")

    client = connect(serve(lambda *_: (200, {"model": "secret/key"})), api_key_variable="KEY")
    with pytest.raises(InputError, match=r"^no such model: \*\*\*$"):
        client.ask([Request("/v1/models", read)])
