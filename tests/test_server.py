"""The server: real processes on loopback, an unmodified Triton client, and clients that misbehave."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softmaxnet import SoftmaxClassifier, SoftmaxModel, load_model, save_model
from softmaxnet.calibration import Calibration
from softmaxnet.cli import main
from softmaxnet.errors import ResourceError, UsageError
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.network import NetworkSpec, parameter_shapes
from softmaxnet.server.settings import Settings, Token

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and processes of POSIX")

QUICK = {"hidden_layer_sizes": (), "solver": "lbfgs", "weight_decay": 0.01, "random_state": 0}
ROW = {"age": 61, "city": "oslo"}
JSON = {"Content-Type": "application/json"}
TOKEN = "a-token-of-some-length-0123456789"
ATTACK = "<img src=x onerror=alert(1)>"


@dataclass
class Answer:
    """Status, headers and body of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A server that runs."""

    process: subprocess.Popen
    port: int
    log: Path
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body=body, headers=self.headers | (headers or {}))
            return answer_of(connection)
        finally:
            connection.close()

    def predict(self, request: Any, headers: dict[str, str] | None = None) -> Answer:
        """Send JSON to ``/predict``."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        return self.ask("POST", "/predict", body, JSON | (headers or {}))

    def connect(self, timeout: float = 15) -> socket.socket:
        """Return a plain connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(40)


def answer_of(connection: http.client.HTTPConnection) -> Answer:
    """Read an answer."""
    response = connection.getresponse()
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


@contextlib.contextmanager
def server(model: Path, log: Path, *options: str) -> Iterator[Running]:
    """Run a server on a free port until the block ends."""
    command = [sys.executable, "-m", "softmaxnet", "serve", str(model), "--port", "0", "--json", *options]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, bufsize=0)
    try:
        text = b""
        deadline = time.monotonic() + 90
        while not text.rstrip().endswith(b"}"):
            assert time.monotonic() < deadline, log.read_text()
            if select.select([process.stdout], [], [], 1)[0]:
                part = process.stdout.read(4096)
                assert part, f"it ended with {process.wait(10)}: {log.read_text()}"
                text += part
        yield Running(process, json.loads(text)["port"], log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with a table, a matrix and a slow model."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.integers(18, 80, 200), "city": rng.choice(["oslo", "rome"], 200)})
    labels = np.where((frame["age"] > 50) | (frame["city"] == "oslo"), ATTACK, "no")
    SoftmaxClassifier(**QUICK, conformal_fraction=0.3).fit(frame, labels).save(folder / "people.safetensors")
    X = rng.normal(size=(200, 4))
    SoftmaxClassifier(**QUICK).fit(X, X.argmax(axis=1)).save(folder / "numbers.safetensors")
    save_model(slow_model(rng), folder / "slow.safetensors")
    return folder


def slow_model(rng: np.random.Generator) -> SoftmaxModel:
    """Return a model that was never fitted and takes a while: two layers of 1,000 units."""
    encoder = FeatureEncoder.fit(rng.normal(size=(50, 20)))
    spec = NetworkSpec(20, 0, 3, (1000, 1000), "relu")
    shapes = parameter_shapes(spec)
    params = {name: (rng.normal(size=shape) / 30).astype(np.float32) for name, shape in shapes.items()}
    return SoftmaxModel(encoder, spec, params, Calibration(), np.arange(3))


@pytest.fixture(scope="module")
def people(folder) -> Iterator[Running]:
    """Return a server of the table."""
    with server(folder / "people.safetensors", folder / "people.log", "--verbose") as running:
        yield running


@pytest.fixture(scope="module")
def numbers(folder) -> Iterator[Running]:
    """Return a server of the matrix, with small limits and short deadlines."""
    limits = ("--max-body", "64KiB", "--max-rows", "100", "--header-seconds", "1", "--body-seconds", "1", "--log-json")
    with server(folder / "numbers.safetensors", folder / "numbers.log", *limits) as running:
        yield running


def check_problem(answer: Answer, status: int) -> None:
    """Check that an answer is the one body that errors have."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json
    assert problem["status"] == status
    assert problem["error"] == problem["detail"]
    assert {"type", "title", "instance", "errors"} <= set(problem)


# --- what it answers --------------------------------------------------------------------------------------------


def test_predictions_are_the_model_s_own(people, folder):
    """JSON and CSV over HTTP give the same bits as the model in Python; class names are text as they are."""
    model = load_model(folder / "people.safetensors")
    expected = model.predict_proba(pd.DataFrame([ROW]))[0].tolist()
    answer = people.predict({"rows": [ROW]})
    assert answer.json["predictions"][0] == {
        "label": ATTACK,
        "probability": max(expected),
        "probabilities": expected,
    }
    assert answer.headers["content-type"] == "application/json"
    csv = people.ask("POST", "/predict?top=1", b"age,city\n61,oslo\n", {"Content-Type": "text/csv"})
    assert csv.json["predictions"][0]["probabilities"] == expected
    assert csv.json["predictions"][0]["top"] == [{"label": ATTACK, "probability": max(expected)}]


def test_many_rows_are_answered_by_another_thread_as_one_by_one(people):
    """A request that is large enough to leave the event loop gives the same numbers."""
    rows = [ROW | {"age": age} for age in range(200)]
    together = people.predict({"rows": rows}).json["predictions"]
    assert together[7] == people.predict({"rows": rows[7:8]}).json["predictions"][0]
    assert len(together) == 200


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/v2/models/people/ready"]
)
def test_health_is_an_empty_200(people, path):
    """Liveness and readiness, of our own and of the protocol, also for HEAD."""
    for method in ("GET", "HEAD"):
        answer = people.ask(method, path)
        assert (answer.status, answer.body) == (200, b"")


def test_the_schema_the_metadata_and_openapi(people):
    """What the model takes, in our words, in those of the protocol, and as OpenAPI."""
    assert people.ask("GET", "/schema").json["name"] == "people"
    assert people.ask("GET", "/v2/models/people/versions/1").json["inputs"][1]["datatype"] == "BYTES"
    assert "binary_tensor_data" in people.ask("GET", "/v2").json["extensions"]
    document = people.ask("GET", "/openapi.json").json
    assert set(document["paths"]["/predict"]["post"]["requestBody"]["content"]) == {
        "application/json",
        "text/csv",
        "image/png",
        "image/jpeg",
    }
    assert "/v2/models/people/infer" in document["paths"]


def test_metrics_count_requests_and_rows_and_name_the_model(people, folder):
    """Prometheus' text; no label holds what a user sent."""
    from softmaxnet.model_file import inspect_model

    people.predict({"rows": [ROW, ROW]})
    people.ask("GET", "/a-path-that-is-not-there")
    text = people.ask("GET", "/metrics").body.decode()
    assert f'sha256="{inspect_model(folder / "people.safetensors")["digest"]}"' in text
    assert 'softmaxnet_requests_total{code="200",route="/predict"}' in text
    assert 'softmaxnet_requests_total{code="404",route="other"}' in text
    rows = next(line for line in text.splitlines() if line.startswith("softmaxnet_rows_total"))
    assert float(rows.split()[1]) >= 2
    assert "a-path-that-is-not-there" not in text


def test_answers_carry_security_headers(people):
    """No sniffing, no storing, no framing, no other origin; nothing tells what the server runs on."""
    for answer in (people.predict({"rows": [ROW]}), people.ask("GET", "/schema"), people.ask("GET", "/none")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not {"access-control-allow-origin", "server"} & set(answer.headers)


def test_the_page_comes_with_a_policy_for_itself_only(people):
    """Scripts and styles from this server, pictures also from data: and blob:; a tag spares sending it again."""
    answer = people.ask("GET", "/")
    if answer.status == 404:
        pytest.skip("the page is not there")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert ATTACK.encode() not in answer.body
    again = people.ask("GET", "/", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


def test_a_process_that_serves_has_no_torch(people):
    """Neither torch nor scikit-learn is mapped into it."""
    maps = Path(f"/proc/{people.process.pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc")
    people.predict({"rows": [ROW], "explain": True, "coverage": 0.8})
    text = maps.read_text()
    assert "numpy" in text
    assert "libtorch" not in text
    assert "/sklearn/" not in text


def test_log_lines_name_the_request_and_hold_no_secret(people):
    """One line for each request, without query, headers or body."""
    people.ask("POST", "/predict?top=77123", b"age,city\n61,oslo\n", {"Content-Type": "text/csv", "X-Key": "hidden"})
    people.ask("GET", "/line%0Abreak")
    time.sleep(0.2)
    text = people.log.read_text()
    assert "POST /predict 200 1 row" in text
    assert r"GET /line\nbreak 404" in text
    assert not any(secret in text for secret in ("77123", "hidden", "oslo"))


# --- tritonclient -----------------------------------------------------------------------------------------------


@pytest.fixture
def triton():
    """Return the unmodified client library."""
    return pytest.importorskip("tritonclient.http")


def test_triton_client_with_binary_tensors(triton, numbers, folder):
    """The client's defaults: raw FP32 in, raw outputs back."""
    X = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    with triton.InferenceServerClient(f"127.0.0.1:{numbers.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("numbers")
        assert client.get_server_metadata()["name"] == "softmaxnet"
        metadata = client.get_model_metadata("numbers")
        tensor = triton.InferInput(metadata["inputs"][0]["name"], list(X.shape), "FP32")
        tensor.set_data_from_numpy(X)
        result = client.infer("numbers", [tensor], request_id="7")
    model = load_model(folder / "numbers.safetensors")
    assert result.get_response()["id"] == "7"
    assert np.array_equal(result.as_numpy("probabilities"), model.predict_proba(X.astype(np.float64)))
    assert result.as_numpy("label_index").tolist() == model.predict(X).tolist()
    assert result.as_numpy("label").tolist() == [str(label).encode() for label in model.predict(X)]


@pytest.mark.parametrize("binary", [True, False])
def test_triton_client_with_a_tensor_for_each_column(triton, people, folder, binary):
    """Texts and numbers, as JSON and as bytes, compressed, with a chosen output and a classification."""
    age = triton.InferInput("age", [2], "FP64")
    age.set_data_from_numpy(np.array([20.0, 70.0]), binary_data=binary)
    city = triton.InferInput("city", [2], "BYTES")
    city.set_data_from_numpy(np.array(["rome", "oslo"], dtype=object), binary_data=binary)
    outputs = [
        triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=1),
        triton.InferRequestedOutput("prediction_set", binary_data=binary),
        triton.InferRequestedOutput("label", binary_data=binary),
    ]
    with triton.InferenceServerClient(f"127.0.0.1:{people.port}") as client:
        result = client.infer(
            "people",
            [age, city],
            outputs=outputs,
            model_version="1",
            request_compression_algorithm="gzip",
            parameters={"coverage": 0.8},
        )
    frame = pd.DataFrame({"age": [20, 70], "city": ["rome", "oslo"]})
    model = load_model(folder / "people.safetensors")
    text = [label.decode() if binary else label for label in result.as_numpy("label").tolist()]
    assert text == model.predict(frame).tolist()
    sets = [json.loads(one) for one in result.as_numpy("prediction_set").tolist()]
    assert sets == [labels.tolist() for labels in model.predict_set(frame, 0.8)]
    best = result.as_numpy("probabilities")
    assert best.shape == (2, 1)


def test_triton_client_understands_our_errors(triton, numbers):
    """It shows our sentence, not an exception while decoding."""
    from tritonclient.utils import InferenceServerException

    with triton.InferenceServerClient(f"127.0.0.1:{numbers.port}") as client:
        tensor = triton.InferInput("input", [1, 3], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 3), np.float32))
        with pytest.raises(InferenceServerException, match="expected \\[4\\]") as caught:
            client.infer("numbers", [tensor])
        assert caught.value.status() == "422"
        with pytest.raises(InferenceServerException, match="there is no such model"):
            client.get_model_metadata("other")


# --- bad requests (S2, S3) --------------------------------------------------------------------------------------

BAD_JSON = {
    "nan": b'{"rows": [[NaN, 1, 2, 3]]}',
    "infinity": b'{"rows": [[Infinity, 1, 2, 3]]}',
    "overflow": b'{"rows": [[1e999, 1, 2, 3]]}',
    "twice": b'{"rows": [[1, 1, 2, 3]], "rows": []}',
    "deep": b"[" * 50_000,
    "digits": b'{"rows": [[' + b"1" * 5000 + b"]]}",
    "utf-8": b'{"rows": "\xff"}',
    "surrogate": b'{"rows": ["\\ud800"]}',
    "cut": b'{"rows": [[1, 2',
    "empty": b"",
    "comment": b'{"rows": [[1,2,3,4]]} // yes',
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_that_takes_liberties_is_a_400(numbers, name):
    """NaN, infinities, a key twice, depth, digits, bad UTF-8: refused, on both paths that take JSON."""
    for path in ("/predict", "/v2/models/numbers/infer"):
        answer = numbers.ask("POST", path, BAD_JSON[name], JSON)
        check_problem(answer, 400)


BAD_REQUESTS = {
    "wrong-type": ({"rows": [["a", 1, 2, 3]]}, 422),
    "ragged": ({"rows": [[1, 2, 3, 4], [1]]}, 422),
    "too-many-rows": ({"rows": [[1, 2, 3, 4]] * 101}, 422),
    "no-rows": ({"rows": []}, 422),
    "no-input": ({}, 400),
    "option": ({"rows": [[1, 2, 3, 4]], "top": "3"}, 400),
    "array": ([], 400),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_a_4xx_with_the_common_body(numbers, name):
    """400 for the form, 422 for the rows."""
    request, status = BAD_REQUESTS[name]
    check_problem(numbers.predict(request), status)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({}, 415),
        (JSON | {"Content-Encoding": "br"}, 415),
        (JSON | {"Content-Encoding": "gzip"}, 400),
        ({"Content-Type": "image/gif"}, 415),
        ({"Content-Type": "image/png"}, 400),
    ],
)
def test_other_content_is_refused(numbers, headers, status):
    """What a form of another site could send, unknown encodings, pictures for a model of numbers."""
    check_problem(numbers.ask("POST", "/predict", b"rows", headers), status)


@pytest.mark.parametrize("length", ["-5", "x", "10000000", "10"])
def test_a_header_length_that_lies_is_refused(numbers, length):
    """``Inference-Header-Content-Length`` beyond the body or within its JSON."""
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    body = json.dumps({"inputs": [tensor]}).encode()
    check_problem(
        numbers.ask("POST", "/v2/models/numbers/infer", body, {"Inference-Header-Content-Length": length}), 400
    )


def padded(size: int) -> bytes:
    """Return a request of exactly so many bytes."""
    body = b'{"rows": [[1, 2, 3, 4]]}'
    return body + b" " * (size - len(body))


def test_a_body_of_the_limit_is_taken_and_one_beyond_it_is_a_413(numbers):
    """By its length, in chunks without one, and unpacked; memory does not grow by what was refused."""
    limit = 64 * 1024
    assert numbers.predict(padded(limit)).status == 200
    assert numbers.predict(gzip.compress(padded(limit)), {"Content-Encoding": "gzip"}).status == 200
    assert numbers.predict(zlib.compress(padded(limit)), {"Content-Encoding": "deflate"}).status == 200
    check_problem(numbers.predict(padded(limit + limit // 100)), 413)
    check_problem(numbers.predict(padded(100 * limit)), 413)
    bomb = gzip.compress(b" " * (1000 * 64 * 1024))
    check_problem(numbers.predict(bomb, {"Content-Encoding": "gzip"}), 413)
    connection = http.client.HTTPConnection("127.0.0.1", numbers.port, timeout=30)
    chunks = (b" " * 8192 for _ in range(20))
    connection.request("POST", "/predict", body=chunks, headers=JSON, encode_chunked=True)
    check_problem(answer_of(connection), 413)
    connection.close()
    assert numbers.predict({"rows": [[1, 2, 3, 4]]}).status == 200


def test_a_client_that_waits_for_100_continue_is_refused_before_it_sends(numbers):
    """The length alone is reason enough."""
    with numbers.connect() as plain:
        plain.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
        )
        assert plain.recv(100).startswith(b"HTTP/1.1 413")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), st.sampled_from(["/predict", "/v2/models/numbers/infer"]), st.integers(-1, 90))
def test_no_body_makes_a_5xx(numbers, body, path, length):
    """Whatever the bytes, the answer is a 4xx with the common body."""
    headers = JSON | ({"Inference-Header-Content-Length": str(length)} if length >= 0 else {})
    answer = numbers.ask("POST", path, body, headers)
    check_problem(answer, answer.status)
    assert 400 <= answer.status < 500


@pytest.mark.parametrize(
    "request_",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x00\xa5",
        b"POST /predict HTTP/1.1\r\nA: \x00\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_400_with_the_common_body(numbers, request_):
    """Also what never reaches an application has our body."""
    with numbers.connect() as plain:
        plain.sendall(request_)
        data = b""
        while chunk := plain.recv(4096):
            data += chunk
    assert data.startswith(b"HTTP/1.1 400")
    assert json.loads(data.partition(b"\r\n\r\n")[2])["status"] == 400


def test_headers_have_a_largest_size(numbers):
    """One long header, in one piece or in many, is a 431."""
    for pieces in (1, 40):
        with numbers.connect() as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
            with contextlib.suppress(OSError):
                for _ in range(pieces):
                    plain.sendall(b"a" * (40_000 // pieces))
                    time.sleep(0.005)
                plain.sendall(b"\r\n\r\n")
            assert plain.recv(100).startswith(b"HTTP/1.1 431")


# --- slow clients (S1) ------------------------------------------------------------------------------------------

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 3000\r\n"


@pytest.mark.parametrize(
    ("start", "status"),
    [(b"", b""), (HEAD + b"X-Slow:", b"HTTP/1.1 408"), (HEAD + b"\r\n{", b"HTTP/1.1 408")],
    ids=["idle", "slow-headers", "slow-body"],
)
def test_slow_clients_are_closed_at_the_deadline_and_good_ones_served_meanwhile(numbers, start, status):
    """Twenty sockets that trickle are all closed; requests in between are answered."""
    slow = [numbers.connect() for _ in range(20)]
    try:
        for plain in slow:
            plain.sendall(start)
        deadline = time.monotonic() + 10
        answers: dict[int, bytes] = {}
        while len(answers) < len(slow) and time.monotonic() < deadline:
            assert numbers.predict({"rows": [[1, 2, 3, 4]]}).status == 200
            for index, plain in enumerate(slow):
                if index not in answers and select.select([plain], [], [], 0)[0]:
                    with contextlib.suppress(ConnectionResetError):
                        answers[index] = plain.recv(4096)
                elif index not in answers and start:
                    with contextlib.suppress(OSError):
                        plain.sendall(b" ")
            time.sleep(0.05)
        assert len(answers) == len(slow)
        assert all(answer.startswith(status) for answer in answers.values())
    finally:
        for plain in slow:
            plain.close()


def test_several_requests_on_one_connection_also_pipelined(numbers):
    """Small and large ones, one after the other and sent at once, are answered in order."""
    bodies = [json.dumps({"rows": [[k, 2, 3, 4]] * (1 if k % 2 else 90), "top": 1}).encode() for k in range(6)]
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with numbers.connect() as plain:
        plain.sendall(b"".join(head % len(body) + body for body in bodies))
        file = plain.makefile("rb")
        for body in bodies:
            assert file.readline().startswith(b"HTTP/1.1 200")
            length = 0
            while (line := file.readline()) != b"\r\n":
                length = int(line.split()[1]) if line.startswith(b"content-length") else length
            assert json.loads(file.read(length)) == numbers.predict(body).json


# --- overload (S4) ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_overload_is_answered_with_503_and_passes(folder):
    """More work than there is room for: some is refused with Retry-After, the rest answered, and then all again."""
    body = json.dumps({"rows": np.zeros((400, 20)).tolist()}).encode()
    with server(folder / "slow.safetensors", folder / "slow.log", "--max-requests", "8") as running:
        answers: list[Answer] = []

        def ask() -> None:
            answers.append(running.predict(body))

        threads = [threading.Thread(target=ask) for _ in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = {answer.status for answer in answers}
        assert statuses == {200, 503}
        for answer in answers:
            if answer.status == 503:
                check_problem(answer, 503)
                assert int(answer.headers["retry-after"]) >= 1
        assert running.predict(body).status == 200


@pytest.mark.slow
def test_work_that_takes_too_long_is_a_504(folder):
    """The answer is given up at the deadline, and the server goes on."""
    body = json.dumps({"rows": np.zeros((1000, 20)).tolist()}).encode()
    with server(folder / "slow.safetensors", folder / "late.log", "--compute-seconds", "0.002") as running:
        check_problem(running.predict(body), 504)
        assert running.ask("GET", "/healthz").status == 200


# --- stopping (S5) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_no_request_that_was_taken(folder, number):
    """Every request that was sent on an open connection is answered, and the exit code is 0."""
    lost: list[str] = []
    served = []
    with server(folder / "numbers.safetensors", folder / "term.log") as running:
        stop = threading.Event()

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
            connection.connect()
            while not stop.is_set():
                try:
                    connection.request("POST", "/predict", b'{"rows": [[1, 2, 3, 4]]}', JSON)
                    answer = answer_of(connection)
                except (OSError, http.client.HTTPException) as error:
                    lost.append(repr(error))
                    return
                served.append(answer.status)
                if answer.headers.get("connection") == "close":
                    return

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        code = running.stop(number)
        stop.set()
        for thread in threads:
            thread.join()
    assert lost == []
    assert set(served) == {200}
    assert code == 0


def test_a_request_whose_body_is_still_coming_is_answered_before_the_server_ends(folder):
    """Draining waits for it; new connections are refused meanwhile."""
    body = b'{"rows": [[1, 2, 3, 4]]}'
    with server(folder / "numbers.safetensors", folder / "drain.log") as running:
        with running.connect() as plain:
            plain.sendall(HEAD.replace(b"3000", b"%d" % len(body)) + b"\r\n" + body[:5])
            time.sleep(0.3)
            running.process.terminate()
            time.sleep(0.5)
            with pytest.raises(OSError, match="refused"):
                running.connect(1).close()
            plain.sendall(body[5:])
            assert plain.recv(4096).startswith(b"HTTP/1.1 200")
        assert running.process.wait(30) == 0


def test_readiness_says_no_before_the_server_stops_listening(folder):
    """With a delay of draining, requests are still answered while ready is 503."""
    with server(folder / "numbers.safetensors", folder / "ready.log", "--drain-delay", "2") as running:
        assert running.ask("GET", "/readyz").status == 200
        running.process.terminate()
        time.sleep(0.5)
        check_problem(running.ask("GET", "/v2/health/ready"), 503)
        assert running.ask("GET", "/healthz").status == 200
        assert running.predict({"rows": [[1, 2, 3, 4]]}).status == 200
        assert running.process.wait(30) == 0


def test_a_model_file_that_is_replaced_or_deleted_changes_nothing(folder, tmp_path):
    """The server keeps the model that it verified."""
    path = tmp_path / "model.safetensors"
    shutil.copy(folder / "numbers.safetensors", path)
    with server(path, tmp_path / "log") as running:
        before = running.predict({"rows": [[1, 2, 3, 4]]}).body
        shutil.copy(folder / "people.safetensors", path)
        assert running.predict({"rows": [[1, 2, 3, 4]]}).body == before
        path.unlink()
        assert running.predict({"rows": [[1, 2, 3, 4]]}).body == before


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(folder):
    """Two processes on one port: after kill -9 of one, requests are answered and there are two again."""
    with server(folder / "numbers.safetensors", folder / "workers.log", "--workers", "2") as running:

        def children() -> list[int]:
            task = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
            pids = [int(pid) for pid in task.read_text().split()]
            return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

        if not Path("/proc/self/task").exists():
            pytest.skip("no /proc")
        first = children()
        assert len(first) == 2
        assert running.predict({"rows": [[1, 2, 3, 4]]}).status == 200
        os.kill(first[0], signal.SIGKILL)
        deadline = time.monotonic() + 60
        now = first
        while time.monotonic() < deadline and (len(now) < 2 or first[0] in now):
            time.sleep(0.2)
            now = children()  # one look a turn: the killed process may go between two
        assert len(now) == 2
        for _ in range(10):
            assert running.predict({"rows": [[1, 2, 3, 4]]}).status == 200
        text = running.ask("GET", "/metrics").body.decode()
        assert "softmaxnet_rows_total" in text
        assert running.stop() == 0


# --- who may ask (S6) -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(folder) -> Iterator[Running]:
    """Return a server with a token."""
    (folder / "token").write_text(TOKEN + "\n")
    options = ("--token-file", str(folder / "token"), "--allow-host", "models.example.org", "--verbose")
    with server(folder / "people.safetensors", folder / "guarded.log", *options) as running:
        yield running


@pytest.mark.parametrize(
    "given",
    [
        None,
        "Bearer",
        "Bearer wrong",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer " + "a" * 9000,
    ],
    ids=["none", "empty", "wrong", "basic", "longer", "shorter", "long"],
)
def test_without_the_token_nothing_is_answered(guarded, given):
    """401 on every path that tells anything; health and the page are open."""
    headers = {} if given is None else {"Authorization": given}
    for method, path in (("POST", "/predict"), ("GET", "/schema"), ("GET", "/metrics"), ("GET", "/v2/models/people")):
        answer = guarded.ask(method, path, b"{}" if method == "POST" else None, JSON | headers)
        check_problem(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert guarded.ask("GET", "/healthz", headers=headers).status == 200


def test_the_token_opens_and_is_in_no_log(guarded):
    """It is compared, and never written."""
    answer = guarded.predict({"rows": [ROW]}, {"Authorization": f"Bearer {TOKEN}"})
    assert answer.status == 200
    time.sleep(0.1)
    assert TOKEN not in guarded.log.read_text()


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example:80", "a@localhost"]
)
def test_other_hosts_are_refused(people, host):
    """A name that was rebound to this address by another site."""
    check_problem(people.ask("GET", "/schema", headers={"Host": host}), 400)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:80", "models.example.org"])
def test_own_and_allowed_hosts_are_answered(guarded, host):
    """With and without a port, in any case."""
    headers = {"Host": host, "Authorization": f"Bearer {TOKEN}"}
    assert guarded.ask("GET", "/schema", headers=headers).status == 200


def test_health_is_told_to_whoever_asks(guarded):
    """Probes ask by the address of the machine, which is in no list."""
    assert guarded.ask("GET", "/readyz", headers={"Host": "10.1.2.3:8000"}).status == 200


def test_a_connection_goes_on_after_a_body_that_was_refused(numbers):
    """Once its body has been read, a refused request leaves the connection to the next one, at once."""
    connection = http.client.HTTPConnection("127.0.0.1", numbers.port, timeout=1.5)
    connection.request("POST", "/predict", b"rows", JSON | {"Content-Encoding": "br"})
    check_problem(answer_of(connection), 415)
    connection.request("POST", "/predict", b'{"rows": [[1, 2, 3, 4]]}', JSON)
    assert answer_of(connection).status == 200
    connection.close()


def test_two_hosts_are_refused(people):
    """A second header Host is no way around the list."""
    with people.connect() as plain:
        plain.sendall(b"GET /schema HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert plain.recv(100).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/..%2f..%2fetc%2fpasswd",
        "/v2/models/../../etc/passwd",
        "/page/../server.py",
        "/page/..%2f..%2f__init__.py",
        "/page//etc/passwd",
        "/page/%00",
    ],
)
def test_paths_lead_nowhere_else(people, path):
    """Only the paths of the table exist, however they are written."""
    check_problem(people.ask("GET", path), 404)


def test_pages_of_other_sites_get_nothing(people):
    """No preflight is allowed, and a request that says it comes from another site is refused."""
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = people.ask("OPTIONS", "/predict", headers=preflight)
    check_problem(answer, 405)
    assert not any(name.startswith("access-control") for name in answer.headers)
    check_problem(people.predict({"rows": [ROW]}, {"Sec-Fetch-Site": "cross-site"}), 403)
    assert people.predict({"rows": [ROW]}, {"Sec-Fetch-Site": "same-origin"}).status == 200


def test_an_open_port_without_a_token_is_refused(folder, capsys):
    """Exit code 2 before anything is loaded; --insecure-no-auth is the way to insist."""
    model = str(folder / "people.safetensors")
    assert main(["serve", model, "--host", "0.0.0.0"]) == 2
    assert "--token-file" in capsys.readouterr().err
    Settings(model, host="0.0.0.0", no_auth=True).check()


def test_tokens_must_be_worth_the_name(tmp_path):
    """Short ones, several lines and files that are not there are refused."""
    path = tmp_path / "token"
    for text in ("short", "", "two lines of a token\nand another one"):
        path.write_text(text)
        with pytest.raises(UsageError):
            Token.read(str(path))
    with pytest.raises(ResourceError):
        Token.read(str(tmp_path / "none"))
    path.write_text(TOKEN)
    assert TOKEN not in repr(Token.read(str(path)))


# --- exit codes -------------------------------------------------------------------------------------------------


def test_a_bad_model_file_is_exit_code_4(tmp_path, capsys):
    """As with every other command."""
    (tmp_path / "bad.safetensors").write_bytes(b"not a model")
    assert main(["serve", str(tmp_path / "bad.safetensors"), "--port", "0"]) == 4
    assert main(["serve", str(tmp_path / "none.safetensors"), "--port", "0"]) == 4
    assert "no such file" in capsys.readouterr().err


def test_a_port_that_is_taken_is_exit_code_6(numbers, folder, capsys):
    """The message names address and port."""
    assert main(["serve", str(folder / "numbers.safetensors"), "--port", str(numbers.port)]) == 6
    assert f"port {numbers.port}" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--max-body", "8 MB"], ["--port", "70000"], ["--allow-host", "http://x"]])
def test_bad_options_are_exit_code_2(option, capsys):
    """What an option takes is said."""
    assert main(["serve", "model.safetensors", *option]) == 2
    assert "must be" in capsys.readouterr().err


def test_json_log_lines_are_json(numbers):
    """With --log-json every line is an object."""
    numbers.predict({"rows": [[1, 2, 3, 4]]})
    time.sleep(0.1)
    lines = [json.loads(line) for line in numbers.log.read_text().splitlines() if line.startswith("{")]
    assert {"time", "client", "method", "path", "status", "rows", "seconds"} == set(lines[-1])
