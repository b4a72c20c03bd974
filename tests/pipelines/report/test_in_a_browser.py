"""The page in a real browser, opened from the disk, where there is one."""

import html
import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from PIL import Image

from pipelines.records import Prediction, TrainingExample, Verdict, tables
from pipelines.report import stage
from pipelines.report.config import ReportConfig
from tests.pipelines.fixtures import put, put_questions, showing
from tests.pipelines.report.reports import answered, asked

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"
PATH = "images/0.zip/a.png"
DRIVER = """<script>addEventListener("load", async () => {
  const told = [], wait = () => new Promise((done) => setTimeout(done, 150));
  const tell = () => told.push([document.getElementById("flips-place").textContent,
    document.querySelector("#flips-card code")?.textContent, document.querySelectorAll("#flips-card .said").length]);
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const show = (kind) => {
    const list = [...document.querySelectorAll("#flips select")].at(-1);
    list.value = kind; list.dispatchEvent(new Event("change")); };
  await wait(); tell();
  press("ArrowRight"); await wait(); tell();
  press("ArrowLeft"); press("ArrowLeft"); await wait(); tell();
  show(1); await wait(); tell();
  show(5); await wait(); tell();
  location.hash = "question=sf.csv49"; await wait(); tell();
  const [image, text] = ["img", "b"].map((tag) => document.querySelector(`#flips-card ${tag}`));
  told.push(image.naturalWidth, text.textContent);
  document.body.append(Object.assign(document.createElement("pre"), { id: "told", textContent: JSON.stringify(told) }));
});</script>"""


@pytest.fixture
def report(tmp_path):
    """The folder of a report on 50 questions and two models."""
    pictures = {PATH: Image.new("RGB", (4, 4))}
    about = {"text": HOSTILE, "options": (HOSTILE, "b"), "images": (PATH,), "image_digests": (PATH,)}
    questions = [showing(q, pictures) for q in asked(("s", "f.csv", 50, ("",)), **about)]
    rows = answered(questions, "B" * 50, text=HOSTILE)
    rows += answered(questions, ["A", *"B" * 49], arm="answer_only", model="a", text=HOSTILE)
    inputs = {
        "questions": put_questions(tmp_path, questions, pictures),
        "verdicts": put(tmp_path, "verdicts", lambda d: tables.write(d, Verdict, [])),
        "examples/answer_only": put(tmp_path, "examples/answer_only", lambda d: tables.write(d, TrainingExample, [])),
        "examination": put(tmp_path, "examination", lambda d: tables.write(d, Prediction, rows)),
    }
    (tmp_path / "made").mkdir()
    progress = SimpleNamespace(say=lambda _: None)
    stage.run(SimpleNamespace(inputs=inputs, draft=tmp_path / "made", config=ReportConfig(), progress=progress))
    return tmp_path / "made"


def test_questions_are_looked_through_by_keys_filters_and_links_and_their_text_does_nothing(report):
    page = report / "index.html"
    page.write_text(page.read_text().replace("</body>", f"{DRIVER}</body>"))
    alone = [f"--user-data-dir={report.parent / 'browser'}", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    words = [CHROMIUM, "--headless=new", *alone, "--virtual-time-budget=8000", "--dump-dom", page.as_uri()]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    told = json.loads(html.unescape(re.search('<pre id="told">(.*?)</pre>', shown)[1]))
    # Of both kinds of outcome in turn, as long as there are two; ids are in the order of their digits.
    places, (width, text) = told[:6], told[6:]
    assert places == [
        ["1 of 50", "f.csv sf.csv1", 2],
        ["2 of 50", "f.csv sf.csv0", 2],
        ["50 of 50", "f.csv sf.csv9", 2],
        ["1 of 1", "f.csv sf.csv0", 2],
        ["No question of this kind is here.", None, 0],
        ["45 of 50", "f.csv sf.csv49", 2],
    ]
    assert (width, text) == (4, HOSTILE)
    assert "<title>Preceptor" in shown
