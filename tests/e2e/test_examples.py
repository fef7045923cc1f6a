"""The real examples on the real system: one `headway up` with both models serves all of these tests."""

import io
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from examples import train_digits
from headway.running import RunningHeadway

ROOT = Path(__file__).resolve().parents[2]

# The first of them trains a model and loads two, which takes its time on a small machine.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHeadway]:
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(ROOT / "examples" / "models", folder / "models", ignore=shutil.ignore_patterns("model.pt2"))
    run("examples.train_digits", "--output", str(folder / "models" / "digits" / "1" / "model.pt2"))
    with RunningHeadway(folder, environ={"HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8"}) as system:
        yield system


@pytest.fixture
def client(system: RunningHeadway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=system.data_url, timeout=90, trust_env=False) as client:
        yield client


def run(module: str, *arguments: str) -> str:
    """What the script printed; it must have ended with 0."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def predict(client: httpx.Client, model: str, instances: list[Any]) -> list[Any]:
    response = client.post(f"/v1/models/{model}:predict", json={"instances": instances})
    assert response.status_code == 200, response.text
    predictions: list[Any] = response.json()["predictions"]
    return predictions


def test_digits_are_read_from_images_that_training_never_saw(client: httpx.Client) -> None:
    images, labels = train_digits.held_out()
    answers = predict(client, "digits", images.tolist())
    probabilities = np.array([answer["probabilities"] for answer in answers])
    assert probabilities.shape == (450, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == labels).mean() >= 0.95


def test_an_embedding_is_the_same_alone_and_in_a_batch(client: httpx.Client) -> None:
    texts = ["A cat sat on the mat.", "The weather in " + "very " * 60 + "distant places.", "Yes."]
    together = np.array(predict(client, "embed", texts))
    alone = np.array([predict(client, "embed", [{"text": text}])[0] for text in texts])
    assert together.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_what_is_no_text_fails_alone_and_its_mates_succeed(client: httpx.Client) -> None:
    def submit(value: Any) -> str:
        return str(client.post("/v1/models/embed/predictions", json={"input": value}).raise_for_status().json()["id"])

    ids = [submit(value) for value in ("One.", 2, "Three.", {"text": "Four.", "lang": "en"}, " ")]
    ended = [client.get(f"/v1/predictions/{id_}", headers={"Prefer": "wait=60"}).json() for id_ in ids]
    assert [each["status"] for each in ended] == ["succeeded", "failed", "succeeded", "failed", "failed"]
    assert {each["error"]["code"] for each in ended if each["error"]} == {"invalid_input"}


def test_a_photo_of_a_digit_is_read_and_what_is_none_fails_alone(client: httpx.Client) -> None:
    images, labels = train_digits.held_out()

    def photo(image: Any) -> bytes:
        file = io.BytesIO()
        paper = 255 - np.kron(image * (255 / 16), np.ones((40, 40)))
        Image.fromarray(paper.astype(np.uint8)).save(file, "JPEG")
        return file.getvalue()

    def read(body: bytes) -> Any:
        headers = {"content-type": "image/jpeg", "prefer": "wait=60"}
        return client.post("/v1/models/photo/predictions", content=body, headers=headers).json()

    found = [read(photo(image))["output"]["digit"] for image in images[:40]]
    assert np.mean(np.array(found) == labels[:40]) >= 0.9
    broken = read(photo(images[0])[:100])
    assert (broken["status"], broken["error"]["code"]) == ("failed", "invalid_input")


def test_submit_and_poll_prints_an_answer_for_each_input(system: RunningHeadway) -> None:
    url = ("--url", system.data_url)
    lines = run(
        "examples.submit_and_poll", *url, "--model", "embed", "A sentence.", '{"text": "Another."}'
    ).splitlines()
    assert len(lines) == 2
    assert all(" [" in line for line in lines)


def test_submit_many_prints_an_answer_for_each_input(system: RunningHeadway) -> None:
    lines = run("examples.submit_many", "--url", system.data_url, "A sentence.", "Another.", '{"text": "Yes."}')
    assert [" [" in line for line in lines.splitlines()] == [True] * 3


def test_a_receiver_prints_the_events_it_can_verify(system: RunningHeadway, client: httpx.Client) -> None:
    secret = run("launch", "webhooks", "secret", "--database-url", f"sqlite:///{system.database}").strip()
    command = [sys.executable, "-m", "examples.receive_webhooks", "--port", "0", "--secret", secret]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as receiver:
        late = threading.Timer(60, receiver.kill)
        late.start()
        try:
            assert receiver.stdout is not None
            url = receiver.stdout.readline().rpartition(" ")[2].strip()
            assert httpx.post(url, json={"type": "prediction.succeeded"}).status_code == 400
            body = {"input": 1, "webhook": url}
            id_ = client.post("/v1/models/embed/predictions", json=body).raise_for_status().json()["id"]
            assert receiver.stdout.readline().startswith(f"prediction.failed {id_} {{'code': 'invalid_input'")
        finally:
            late.cancel()
            receiver.kill()


def test_bring_your_model_serves_it_asks_it_and_stops() -> None:
    answers = run("examples.bring_your_model").splitlines()
    assert [line.rpartition(" ")[2] for line in answers[:-1]] == [
        "red", "green", "blue", "orange", "turquoise", "pink", "black"
    ]  # fmt: skip
    assert "refused with 422" in answers[-1]
