"""The operator's page in a real browser, beside a real `headway up`: idle, busy, failing, on a phone, light and dark.

With HEADWAY_SCREENSHOTS its pictures go into that folder too.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from headway.running import RunningHeadway
from headway.testing import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH (apt-get install chromium)")

HOSTILE = "<img src=x onerror=alert(1)>"

MODELS = {
    "sentiment": """
import time
from headway import Model

class Sentiment(Model):
    def predict(self, inputs):
        time.sleep(0.1)
        return [len(text) for text in inputs]
""",
    "picky": f"""
from headway import Model

class Picky(Model):
    def predict(self, inputs):
        return [text if "fine" in text else ValueError("{HOSTILE} is not for me: " + text) for text in inputs]
""",
}


KEY = "hw_" + "k" * 40


@pytest.fixture(scope="module")
def headway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHeadway]:
    """With an operator's key, and without models."""
    folder = tmp_path_factory.mktemp("ui")
    (folder / "models").mkdir()
    with RunningHeadway(folder, environ={"HEADWAY_BOOTSTRAP_KEY": KEY}) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=15_000)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


class Window:
    """The page in a window of its own; what the browser complains of is kept."""

    def __init__(
        self, browser: Browser, url: str, pictures: Path, *, width: int = 1440, dark: bool = False, key: str = KEY
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900 if width > 400 else 740},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            device_scale_factor=1 if width > 400 else 2,
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self._pictures = pictures
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type != "log" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        if key:
            self.page.add_init_script(f"sessionStorage.setItem('headway.key', '{key}')")
        self.page.goto(f"{url}/ui")

    def live(self) -> None:
        expect(self.page.locator("#live-text")).to_have_text("Live")

    def picture(self, name: str) -> None:
        for folder in {str(self._pictures), os.environ.get("HEADWAY_SCREENSHOTS") or str(self._pictures)}:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=f"{folder}/{name}.png", full_page=True)

    def overflows(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))

    def focused(self) -> str:
        """The accessible name of what has the focus."""
        said = self.page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent")
        return str(said).strip()

    def tab_to(self, name: str) -> None:
        for _ in range(80):
            if self.focused().startswith(name):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"no key leads to {name!r}; the focus is at {self.focused()!r}")


def client_of(headway: RunningHeadway) -> httpx.Client:
    return httpx.Client(base_url=headway.data_url, headers={"authorization": f"Bearer {KEY}"}, timeout=30)


def submit(headway: RunningHeadway, model: str, *inputs: str, priority: int = 5) -> None:
    with client_of(headway) as client:
        for one in inputs:
            body = {"input": one, "priority": priority}
            assert client.post(f"/v1/models/{model}/predictions", json=body).status_code == 202


def test_the_page_asks_for_a_key_and_keeps_it_in_its_tab_only(
    headway: RunningHeadway, browser: Browser, tmp_path: Path
) -> None:
    window = Window(browser, headway.control_url, tmp_path, width=360, key="")
    page = window.page
    field = page.get_by_label("Admin key")
    expect(field).to_be_focused()
    expect(page.locator("main")).to_be_hidden()
    page.keyboard.type("hw_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").get_by_text("That key is not valid.")).to_be_visible()
    expect(field).to_be_focused()
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    window.live()
    expect(page.get_by_text("headway init NAME")).to_be_visible()  # what to do while there is no model
    assert not window.overflows()
    page.reload()
    window.live()
    page.get_by_role("button", name="Forget the key").click()
    expect(field).to_be_visible()
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [0, 0, ""]
    window.context.close()


def test_the_page_shows_what_happens_and_is_worked_by_keyboard_alone(
    headway: RunningHeadway, browser: Browser, tmp_path: Path
) -> None:
    control = headway.control_url
    wide = Window(browser, control, tmp_path)
    page = wide.page

    # Models appear as they are put into the folder
    wide.live()
    for name, source in MODELS.items():
        version = headway.folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version.parent / "model.toml").write_text("[batching]\nmax_batch_size = 8\n")
        (version / "model.py").write_text(source)
    expect(page.locator("#models tbody").get_by_text("ready")).to_have_count(2, timeout=30_000)

    # Idle
    expect(page.get_by_text("Nothing waits, and nothing runs.")).to_be_visible()
    expect(page.get_by_text("No failures.")).to_be_visible()
    expect(page.locator("#devices")).to_contain_text("2 loads")
    wide.picture("idle")

    # A model is paused by keyboard, and its lanes fill
    wide.tab_to("Pause sentiment")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").get_by_text("sentiment is paused")).to_be_visible()
    row = page.locator("#queue tbody tr", has_text="sentiment")
    expect(row).to_contain_text("paused")
    assert wide.focused() == "Resume sentiment"
    with client_of(headway) as client:  # workers hear of it within a second; then one has to wait
        ask = {"json": {"input": "waits"}, "headers": {"prefer": "wait=1"}}
        wait_until(lambda: client.post("/v1/models/sentiment/predictions", **ask).status_code == 202)  # type: ignore[arg-type]
    for priority, count in ((0, 10), (5, 50), (9, 40)):
        submit(headway, "sentiment", *map(str, range(count)), priority=priority)
    lines = "\n".join(f'{{"input": "line {n}"}}' for n in range(160))
    with client_of(headway) as client:
        form = {"content-type": "application/jsonl"}
        assert client.post("/v1/batches?model=sentiment", content=lines, headers=form).status_code == 202
    for cell, count in (("0–2", 10), ("3–6", 51), ("7–9", 40), ("Batches", 160)):
        expect(row.locator(f'td[data-label="{cell}"] span')).to_have_text(str(count))
    expect(page).to_have_title("261 queued – Headway")

    # It goes on, and is busy
    page.keyboard.press("Enter")
    expect(row).not_to_contain_text("paused")
    expect(page.locator("#batches li")).to_contain_text(re.compile(r"[1-9]\d* of 160 lines"))
    expect(page.locator("#devices .list > li")).to_contain_text(re.compile(r"[1-9]\d* micro-batch"))
    wide.picture("busy")

    # Failing; what a model says is text, whatever it says
    submit(headway, "picky", "one", "two", "fine")
    failures = page.locator("#failures tbody tr")
    expect(failures).to_have_count(2)
    expect(failures.first.locator('[data-label="Message"]')).to_have_text(f"ValueError: {HOSTILE} is not for me: two")
    expect(failures.first).to_contain_text("model_error")
    assert page.locator("main img").count() == 0
    wide.picture("failing")

    # On a phone, in the dark
    narrow = Window(browser, control, tmp_path, width=360, dark=True)
    expect(narrow.page.locator("#failures tbody tr")).to_have_count(2)
    assert not narrow.overflows()
    narrow.picture("narrow")
    assert narrow.complaints == []
    narrow.context.close()
    dark = Window(browser, control, tmp_path, dark=True)
    expect(dark.page.locator("#failures tbody tr")).to_have_count(2)
    dark.picture("dark")
    background = "getComputedStyle(document.body).backgroundColor"
    assert dark.page.evaluate(background) != page.evaluate(background)
    assert dark.complaints == []
    dark.context.close()

    # One of them again, by keyboard: it fails again, at its second attempt; the focus stays in the list
    wide.tab_to("Retry picky@1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").get_by_text("is queued again")).to_be_visible()
    expect(failures.locator('[data-label="Attempt"]').get_by_text("2", exact=True)).to_be_visible()
    assert wide.focused().startswith("Retry picky@1")

    # All of them
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Retry all failed of picky").click()
    expect(page.get_by_role("status").get_by_text("2 predictions of picky are queued again.")).to_be_visible()

    assert not wide.overflows()
    assert wide.complaints == []
    wide.context.close()


def test_what_a_button_could_not_do_is_said_and_a_connection_that_is_lost_or_left_comes_back(
    headway: RunningHeadway, browser: Browser, tmp_path: Path
) -> None:
    window = Window(browser, headway.control_url, tmp_path)
    page = window.page
    window.live()
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    hide += "document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(hide % "true")
    expect(page.locator("#live-text")).to_have_text("Paused while hidden")
    page.evaluate(hide % "false")
    window.live()

    problem = {
        "status": 503,
        "content_type": "application/problem+json",
        "body": '{"detail": "Not now, <b>please</b>."}',
    }
    page.route("**/queue/pause", lambda route: route.fulfill(**problem))
    page.get_by_role("button", name="Pause picky").first.click()
    expect(page.get_by_role("status").get_by_text("picky could not be paused: Not now, <b>please</b>.")).to_be_visible()
    window.complaints.clear()  # of the 503

    os.kill(headway.pid_of("api"), 9)
    expect(page.get_by_text(re.compile(r"Trying again in \d+ s"))).to_be_visible()
    expect(page.locator("main")).to_have_class("stale")
    window.picture("lost")
    window.live()
    expect(page.locator("main")).not_to_have_class("stale")
    assert not [said for said in window.complaints if "Failed to load resource" not in said and "net::" not in said]
    window.context.close()
