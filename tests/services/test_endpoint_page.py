"""The endpoint's page in a real browser: by keyboard, side by side, at the width of a phone, and when it is refused."""

import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from test_endpoint import SOURCE, expected

from services.gate import token_digest

PROMPT = "a red circle on white"
Open = Callable[..., Page]


@contextmanager
def listening(api: FastAPI) -> Iterator[str]:
    """The API behind a real socket; yields its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "chromium is missing: `make test` installs it as root, others ask for `apt-get install chromium`"
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=quiet)


@pytest.fixture
def open_page(make_api, browser) -> Iterator[Open]:
    """Open the page of an endpoint; it must ask no other host and complain about nothing but refused requests."""
    with ExitStack() as stack:

        def open_page(width: int = 1200, **settings) -> Page:
            address = stack.enter_context(listening(make_api(**settings)))
            context = browser.new_context(viewport={"width": width, "height": 800}, accept_downloads=True)
            stack.callback(context.close)
            page = context.new_page()
            page.on("request", lambda request: requested.append(request.url))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
            page.goto(address)
            addresses.append(address)
            return page

        requested, complaints, addresses = [], [], []
        yield open_page
    assert all(url.startswith((*addresses, "blob:", "data:")) for url in requested)
    assert [line for line in complaints if "responded with a status of" not in line] == []


def answers(page: Page, number: int) -> None:
    """Wait until the newest request has this many images."""
    expect(page.locator("article").first.locator(".picture")).to_have_count(number)


def saved(page: Page, name: str) -> bytes:
    with page.expect_download() as download:
        page.get_by_role("link", name=name).first.click()
    return Path(download.value.path()).read_bytes()


def test_a_prompt_is_compared_by_keyboard_alone(open_page, policies):
    page = open_page()
    expect(page.get_by_role("heading", level=1)).to_have_text("tiny")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.type(PROMPT)
    for name in ("Image to edit", "student", "expert", "Seed"):
        page.keyboard.press("Tab")
        expect(page.get_by_label(name, exact=True)).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("5")
    page.keyboard.press("Enter")
    answers(page, 2)
    for model in ("student", "expert"):
        assert saved(page, f"Save image 1 of {model}") == expected(policies[model], None, PROMPT, 5, 0)
    expect(page.get_by_role("status")).to_have_text(re.compile("2 of 2 models answered"))


def test_an_answer_is_edited_on(open_page, policies):
    page = open_page()
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_label("Seed", exact=True).fill("5")
    page.get_by_role("button", name="Generate").click()
    answers(page, 2)
    first = saved(page, "Save image 1 of student")
    page.get_by_role("button", name="Edit image 1 of student").click()
    expect(page.get_by_alt_text("image to edit")).to_be_visible()
    page.get_by_label("expert", exact=True).uncheck()
    page.get_by_label("Images of each model").select_option("2")
    page.get_by_label("Prompt", exact=True).fill(SOURCE.prompt)
    page.get_by_label("Prompt", exact=True).press("Enter")
    answers(page, 2)
    for k in (0, 1):
        assert saved(page, f"Save image {k + 1} of student") == expected(policies["student"], first, SOURCE.prompt, 5, k)
    page.get_by_role("button", name="Remove image").click()
    expect(page.get_by_role("button", name="Generate")).to_be_visible()


def test_an_example_and_a_file_are_edited(open_page, tmp_path):
    page = open_page()
    page.get_by_role("button", name=SOURCE.prompt).click()
    answers(page, 2)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(SOURCE.prompt)
    page.get_by_role("button", name="Remove image").click()
    buffer = BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    page.get_by_label("Image to edit").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    page.get_by_role("button", name="Edit", exact=True).click()
    expect(page.get_by_text("its source image is 8 x 8, not 24 x 24")).to_have_count(2)  # on the screen, and for screen readers


def test_only_models_that_have_what_they_need_are_asked(open_page):
    page = open_page(models={"student": (), "expert": ("image", "negative_prompt")})
    box = page.get_by_role("checkbox", name="expert")
    expect(box).to_be_disabled()
    expect(page.get_by_text("needs an image to edit and a negative prompt")).to_be_visible()
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_role("button", name="Generate").click()
    answers(page, 1)
    page.get_by_role("textbox", name="Negative prompt").fill("a blue square on white")
    expect(page.get_by_text("needs an image to edit", exact=True)).to_be_visible()
    page.get_by_role("button", name="Edit image 1 of student").click()
    expect(box).to_be_enabled()
    page.get_by_label("Prompt", exact=True).fill(SOURCE.prompt)
    page.get_by_role("textbox", name="Negative prompt").press("Enter")
    answers(page, 2)  # each was sent what it needs, or the endpoint would have refused


def test_a_family_without_editing_offers_none(open_page):
    page = open_page(edits=False)
    expect(page.get_by_role("checkbox", name="expert")).to_be_enabled()
    expect(page.get_by_label("Image to edit")).to_be_hidden()
    expect(page.get_by_role("textbox", name="Negative prompt")).to_be_hidden()


def test_what_is_refused_is_said_once(open_page):
    page = open_page()
    page.get_by_label("Prompt", exact=True).fill("a dog")
    page.get_by_label("Prompt", exact=True).press("Enter")
    expect(page.get_by_text("the scene world doesn't know 'dog'")).to_have_count(2)
    expect(page.get_by_role("status")).to_have_text(re.compile("^0 of 2 models answered"))
    for name in ("student", "expert"):
        page.get_by_label(name, exact=True).uncheck()
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_have_text("Choose at least one model.")


def test_a_full_queue_is_waited_for(open_page):
    page = open_page(queue=1)
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_label("Prompt", exact=True).press("Enter")
    answers(page, 2)


def test_a_token_is_asked_for_and_kept(open_page):
    page = open_page(digest=token_digest("secret"))
    expect(page.get_by_label("Bearer token")).to_be_focused()
    page.keyboard.type("secret")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Bearer token")).to_be_hidden()
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_label("Prompt", exact=True).press("Enter")
    answers(page, 2)


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_screen(open_page, width):
    page = open_page(width)
    page.get_by_role("button", name=SOURCE.prompt).click()
    answers(page, 2)
    page.get_by_role("button", name="Edit image 1 of student").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    named = page.get_by_role("textbox").or_(page.get_by_role("button")).or_(page.get_by_role("checkbox")).all()
    name = "node => (node.ariaLabel || node.textContent || node.labels?.[0]?.textContent || '').trim()"
    assert all(node.evaluate(name) for node in named)
