"""The built site: nothing is missing, every link resolves, and a browser shows it whole.

`JAXNN_SITE` names the folder of a site that is built already; otherwise the tests build one.
"""

import os
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from experiments.site.references import names
from jaxnn.catalogue import ENTRIES

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]

ROOT = Path(__file__).parents[3]
DESK, PHONE = (1300, 900), (390, 844)
AT_BOTH_WIDTHS = (
    "index",
    "start",
    "ops/index",
    "ops/linear",
    "ops/lstm",
    "ops/attention",
    "ops/softmax_cross_entropy",
    "check/index",
    "check/check_numpy",
    "learn/index",
    "learn/homework",
    "training/index",
    "integrations/flax_nnx",
    "gallery/index",
    "benchmarks",
    "api/training",
    "api/networks",
    "extend",
)
CUT = """
const cut = [];
for (const e of document.querySelectorAll('article *')) {
  const style = getComputedStyle(e), box = e.getBoundingClientRect();
  if (!box.width || style.position === 'absolute' || e.closest('mjx-assistive-mml, svg')) continue;
  let scrolls = false;
  for (let p = e; p && p.tagName !== 'ARTICLE'; p = p.parentElement)
    if (['auto', 'scroll'].includes(getComputedStyle(p).overflowX)) scrolls = true;
  if (!scrolls && box.right > innerWidth + 1)
    cut.push(e.tagName + '.' + e.className + ': ' + e.textContent.trim().slice(0, 60));
}
return cut;
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder with the pages."""
    if folder := os.environ.get("JAXNN_SITE"):
        return Path(folder).resolve()
    output = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "experiments.site", "--output", output]
    subprocess.run(command, cwd=ROOT, check=True)
    return output / "html"


class Anchors(HTMLParser):
    """The links of a page, and what links may point to in it."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids = set(), {""}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids.add(given.get("id"))
        for name in ("href", "src"):
            if given.get(name):
                self.links.add(given[name])


def broken_links(folder):
    pages = {path: Anchors(path.read_text()) for path in folder.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target not in pages:
                if not target.exists():
                    yield f"{path.relative_to(folder)}: {link}"
            elif parts.fragment and unquote(parts.fragment) not in pages[target].ids:
                yield f"{path.relative_to(folder)}: {link}"


def test_every_link_resolves(site):
    assert list(broken_links(site)) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<a id="x" href="#x"></a><a href="b.html"></a>')
    (tmp_path / "c.html").write_text('<a href="a.html#y"></a><a href="a.html#x"></a>')
    assert sorted(broken_links(tmp_path)) == ["a.html: b.html", "c.html: a.html#y"]


def test_every_public_name_is_described(site):
    described = {i for page in site.rglob("*.html") for i in Anchors(page.read_text()).ids}
    assert set(names()) - described == set()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.op.__name__)
def test_an_op_has_its_derivation_its_code_and_its_report(site, entry):
    text = (site / "ops" / f"{entry.op.__name__}.html").read_text()
    headings = re.findall(r"<h2>(.*?)<a", text)
    assert [h for h in headings if h in NEEDED] == NEEDED
    words = re.sub(r"<.*?>", "", text)
    assert f"{entry.op.__name__}: right" in words
    assert re.search(r"def \w+_bwd\(|_bwd = ", words)
    backward = text[text.index(">Backward<") : text.index(">Saved for the backward<")]
    assert 'class="math' in backward


NEEDED = ["Shapes", "Backward", "Saved for the backward", "Code", "Call", "Reference", "Checked"]


@pytest.fixture(scope="module")
def address(site):
    """The site, served on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path="/usr/bin/chromedriver")
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


def open_at(browser, address, page, size):
    """Open a page at a width, and wait until its formulas are typeset."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(f"{address}/{page}.html")
    return browser.execute_async_script(
        """
        const done = arguments[arguments.length - 1];
        const formulas = () => document.querySelectorAll('.math').length;
        const ready = window.MathJax && MathJax.startup ? MathJax.startup.promise : null;
        Promise.resolve(ready).then(() => done({
          formulas: formulas(),
          typeset: document.querySelectorAll('mjx-container').length,
          wrong: [...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(
            (e) => e.getAttribute('data-mjx-error') || e.textContent),
        }));
        """
    )


def pages(site):
    return sorted(str(path.relative_to(site).with_suffix("")) for path in site.rglob("*.html"))


def test_every_formula_is_typeset(site, address, browser):
    formulas = 0
    for page in pages(site):
        found = open_at(browser, address, page, DESK)
        assert found["wrong"] == [], page
        assert found["typeset"] >= found["formulas"], page
        formulas += found["formulas"]
    assert formulas > 500


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_nothing_is_cut(site, address, browser, size):
    shots = site.parent / "screenshots"
    shots.mkdir(exist_ok=True)
    for page in AT_BOTH_WIDTHS:
        open_at(browser, address, page, size)
        assert browser.execute_script(CUT) == [], page
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= size[0], page
        browser.save_screenshot(shots / f"{page.replace('/', '_')}_{size[0]}.png")


def test_a_box_beyond_the_edge_is_found(address, browser):
    open_at(browser, address, "index", PHONE)
    browser.execute_script(
        "document.querySelector('article').innerHTML += `<p style='width: 999px'>wide</p>`"
    )
    assert any("wide" in cut for cut in browser.execute_script(CUT))


def test_search_finds_layer_norm(address, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(f"{address}/search.html?q=layer+norm")
    listed = "#search-results li a"

    def found(browser):
        links = browser.find_elements(By.CSS_SELECTOR, listed)
        return [link for link in links if "ops/layer_norm.html" in link.get_attribute("href")]

    assert WebDriverWait(browser, 30).until(found)
