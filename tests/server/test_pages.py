"""The pages in a real browser, over 2,000 pictures, some of which have hostile names.

Screenshots of every page are left in pytest's folder: ``--basetemp`` says where.
"""

import os
import re
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from imgsim import Collection
from tests.conftest import make_collection
from tests.pictures import write_crops
from tests.server.serving import served

CHROMIUM = shutil.which("chromium")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PAGES = {
    "browse": "/",
    "image": "/image/1",
    "search": "/search?like=1,2&unlike=3",
    "duplicates": "/duplicates?radius=0.01",
    "outliers": "/outliers",
    "map": "/map?method=linear",
    "evaluation": "/evaluation",
}
WIDTHS = 1_280, 390
LOADED = """Promise.all([...document.images]
    .filter((image) => !image.complete && image.loading != "lazy")
    .map((image) => new Promise((done) => { image.onload = image.onerror = done; })))"""
NAMES = (
    b"<img src=x onerror=alert(1)>.jpg",
    b'"><script>alert(1)<\\script>.jpg',
    b"'; alert(1); '.jpg",
    b"&lt;b&gt;&amp;.jpg",
    b"two\nlines\ttab.jpg",
    b"not utf-8 \xff\xfe.jpg",
    "\u202egpj.exe\u200f \u2066.jpg".encode(),
    b"%2e%2e%2f..%00?size=large#top.jpg",
    "\U0001f600 \u00e9 e\u0301 \u65e5\u672c \u05e9\u05dc\u05d5\u05dd.jpg".encode(),
    b"long " * 45 + b".jpg",
    b"javascript:alert(1).jpg",
    b"</script><script>alert(1)</script>/</bdi><b>bold.jpg",
    b"\xfffolder\n/inside.jpg",
)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: scripts/browser installs it (as root)"
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A collection of 2,000 crops of real photographs."""
    place = tmp_path_factory.mktemp("pages")
    crops = write_crops(place / "pictures", each=334, side=64)
    for path in crops[2_000:]:
        Path(path).unlink()
    for path, name in zip(crops, NAMES, strict=False):
        target = os.fsencode(place / "pictures") + b"/" + name
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.rename(path, target)
    make_collection(place / "c")
    with Collection.open(place / "c") as collection:
        assert collection.ingest([place / "pictures"]).added == 2_000
    return place


@pytest.fixture(scope="module")
def server(stored):
    with served(stored / "c") as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def wrong():
    """What goes wrong in a tab."""
    return []


@pytest.fixture
def page(browser, server, wrong):
    """A tab that knows the token; whatever goes wrong in it fails the test."""
    context = browser.new_context(
        base_url=server.base, viewport={"width": WIDTHS[0], "height": 900}
    )
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.on("console", lambda told: wrong.append(f"{told.type}: {told.text}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on("request", lambda asked: is_own(asked.url, server.base) or wrong.append(asked.url))
    page.goto(f"/search?token={server.token}")
    yield page
    context.close()
    assert not wrong


def is_own(address, base):
    """Say whether an address is the server's, or leads nowhere."""
    return address.startswith((f"{base}/", "data:", "blob:"))


def cards(page):
    return page.locator(".card a")


def loaded(page):
    """Wait until nothing is asked or computed any more, and every picture in sight is there."""
    page.wait_for_load_state("networkidle")
    expect(page.locator("progress")).to_have_count(0, timeout=60_000)
    page.evaluate(LOADED)


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_sound_on_a_desk_in_light_and_on_a_phone_in_dark(page, name, tmp_path):
    page.goto(PAGES[name])
    if name == "map":
        page.wait_for_url("**/map/page?*")  # to which it leads once it is computed
    for width, scheme in zip(WIDTHS, ("light", "dark"), strict=True):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        loaded(page)
        page.screenshot(path=tmp_path / f"{name}-{width}.png")
        found = Axe().run(page)
        assert not found.response["violations"], found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_browse_shows_more_as_one_scrolls_and_gives_up_what_is_out_of_sight(page):
    page.set_viewport_size({"width": WIDTHS[1], "height": 500})
    page.goto("/")
    for number in range(5):
        page.locator(f".part:nth-child({number + 1})").wait_for(state="attached")
        page.mouse.wheel(0, 1_000_000)
    parts = "[...document.querySelectorAll('.part')].flatMap((p) => p.images.map((i) => i.id))"
    ids = page.evaluate(parts)
    assert ids == list(range(1, len(ids) + 1))
    assert cards(page).count() < len(ids) - 100


def test_browse_sorts_filters_and_opens_folders(page, stored):
    page.goto("/")
    page.select_option("#order", "path")
    page.wait_for_url(re.compile("order=path"))
    page.fill("#suffix", "77.jpg")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("suffix=77"))
    expect(page.locator("#end")).to_have_text("these are all")
    assert all(t.endswith("77.jpg") for t in page.locator(".card bdi").all_inner_texts())
    page.goto(f"/?under={stored}")
    page.locator("#folders").get_by_text("pictures", exact=True).click()
    folder = r"\udcfffolder\u000a"
    page.locator("#folders").get_by_text(folder, exact=True).click()
    expect(page.locator(".card bdi")).to_have_text("inside.jpg")
    expect(page.locator("#crumbs a").last).to_have_text(f"{folder}/")
    page.go_back()
    expect(page.locator("#folders").get_by_text("<", exact=True)).to_be_visible()


def test_an_image_opens_leads_to_others_and_back(page):
    page.goto("/")
    cards(page).nth(20).click()
    page.wait_for_url(re.compile(r"/image/\d+$"))
    first = page.url
    nearest = page.locator("#nearest a")
    expect(nearest).to_have_count(24)
    nearest.first.click()
    page.wait_for_url(lambda url: url != first)
    page.go_back()
    expect(page).to_have_url(first)
    number = first.rpartition("/")[2]
    expect(page.locator("#facts")).to_contain_text(number)
    page.get_by_text("more like this").click()
    page.wait_for_url(re.compile(f"like={number}$"))
    expect(page.locator("#matches a")).to_have_count(60)
    page.locator("#matches").get_by_label("not like this").first.click()
    page.wait_for_url(re.compile("unlike="))
    expect(page.locator(".chosen .unlike")).to_have_count(1)
    page.locator(".chosen .unlike").get_by_text("remove").click()
    expect(page).to_have_url(re.compile(f"like={number}$"))


def test_hostile_names_are_shown_and_do_nothing(page, stored):
    with Collection.open(stored / "c") as collection:
        ids = {os.fsencode(image.path): image.id for image in collection.images()}
    place = os.fsencode(stored / "pictures") + b"/"
    chosen = [ids[place + name] for name in NAMES]
    page.goto(f"/search?like={','.join(map(str, chosen))}")
    expect(page.locator(".chosen .card")).to_have_count(len(NAMES))
    names = page.locator(".chosen bdi").all_inner_texts()
    assert names[0] == "<img src=x onerror=alert(1)>.jpg"
    assert all(name.isprintable() for name in names)
    for number in chosen[5:8]:
        page.goto(f"/image/{number}")
        expect(page.locator("#picture img")).to_have_js_property("naturalWidth", 64)
        assert page.locator("#name").inner_text() in names
        assert page.title().isprintable()
        assert page.locator("b").count() == 0


def test_a_part_that_is_drawn_is_searched_for(page):
    page.goto("/image/30")
    expect(page.locator("#picture img")).to_have_js_property("naturalWidth", 64)
    box = page.locator("#picture img").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 40, box["y"] + 30, steps=4)
    expect(page.locator(".crop")).to_be_visible()
    page.mouse.up()
    page.wait_for_url(re.compile("like=u1$"))
    expect(page.locator(".chosen")).to_contain_text("a part of a picture")
    expect(page.locator("#matches a")).to_have_count(60)


def test_a_file_that_is_gone_is_said_to_be(page, stored, wrong):
    file = sorted((stored / "pictures").glob("rocket*.jpg"))[7]
    with Collection.open(stored / "c") as collection:
        (number,) = (image.id for image in collection.images() if image.path == str(file))
    away = file.rename(stored / "away.jpg")
    for address, place in ((f"/image/{number}", "#picture"), (f"/search?like={number}", ".chosen")):
        page.goto(address)
        expect(page.locator(place)).to_contain_text("the file is gone or has changed")
    away.rename(file)
    assert all("Failed to load resource" in line for line in wrong)
    wrong.clear()


def test_files_that_are_chosen_dropped_and_pasted_are_searched_for(page, stored):
    file = sorted((stored / "pictures").glob("rocket*.jpg"))[5]
    page.goto("/search")
    page.set_input_files("#file", file)
    page.wait_for_url(re.compile("like=u1$"))
    first = page.locator("#matches .card").first
    expect(first).to_contain_text(file.name)
    expect(first).to_contain_text("1 · 0.00000")
    give = """([bytes, name, make]) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(bytes)], name, { type: "image/jpeg" }));
      document.dispatchEvent(
        make === "drop"
          ? new DragEvent("drop", { dataTransfer: data, cancelable: true })
          : new ClipboardEvent("paste", { clipboardData: data }),
      );
    }"""
    page.evaluate(give, [list(file.read_bytes()), "<b>dropped.jpg", "drop"])
    page.wait_for_url(re.compile("like=u1%2Cu2$"))
    expect(page.locator(".chosen")).to_contain_text("<b>dropped.jpg")
    page.evaluate(give, [list(file.read_bytes()), "", "paste"])
    page.wait_for_url(re.compile("like=u1%2Cu2%2Cu3$"))
    expect(page.locator(".chosen")).to_contain_text("pasted")
    expect(page.locator("#matches .card").first).to_contain_text(file.name)


def test_keys(page):
    page.goto("/")
    expect(cards(page).nth(30)).to_be_attached()
    page.keyboard.press("/")
    expect(page.locator("#order")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#note")).to_contain_text("arrows")
    for key, place in (("ArrowRight", 0), ("ArrowRight", 1), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        expect(cards(page).nth(place)).to_be_focused()
    page.keyboard.press("ArrowDown")
    below = cards(page).evaluate_all("(all) => all.indexOf(document.activeElement)")
    assert below > 1
    page.keyboard.press("ArrowUp")
    expect(cards(page).first).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/image/\d+$"))
