"""Small reports for tests of this folder."""

from types import SimpleNamespace

from pipelines.examination.answer_sheets import examined_sets
from pipelines.examination.plan import default_plan
from pipelines.report import stage
from pipelines.report.config import ReportConfig
from tests.pipelines.fixtures import prediction, question

MANIFEST = SimpleNamespace(seconds=1.0, code={"commit": "c" * 40, "dirty": False}, packages={"numpy": "2"})


def artifact(rows=None, rejected=None, quarantined=None, config=None, prompts=None, **facts):
    """A sealed artifact, as far as a report looks at it."""
    return SimpleNamespace(
        digest="d" * 64,
        made_from={"config": config or {}, "prompts": prompts or {}},
        tally={
            "rows": rows or {"n": 1},
            "reasons": rejected or {},
            "quarantined": quarantined or {},
            "facts": facts,
        },
        manifest=MANIFEST,
    )


def asked(*sets, **changes):
    """Questions of sets, each `(source, file, number of questions, strata)`."""
    return [
        question(
            **{
                "id": f"{source}{file}{n}",
                "source": source,
                "file": file,
                "split": "test",
                "stratum": strata[n % len(strata)],
                "image_digests": (str(n),),
            }
            | changes
        )
        for source, file, count, strata in sets
        for n in range(count)
    ]


def answered(questions, letters, **changes):
    """One prediction to each question: `+` stands for the right letter, None for none, any other for itself."""
    return [
        prediction(q.gold if letter == "+" else letter, question_id=q.id, source=q.source, file=q.file, **changes)
        for q, letter in zip(questions, letters, strict=True)
    ]


def sheets(questions, predictions):
    """The answer sheets of each set."""
    return examined_sets(predictions, questions)


def made(questions, predictions, plan=None, curation=None, **config):
    """A whole report on these predictions."""
    inputs = {
        "questions": artifact({"read": 9}, {"no_answer": 2}, {"damaged_image": 4}, curation=curation or {}),
        "verdicts": artifact(),
        "examination": artifact(),
    }
    sets = sheets(questions, predictions)
    return stage.made(ReportConfig(**{"title": "T"} | config), inputs, sets, plan)


def written(*sets, curation=None):
    """A report on sets, with all answers right but the first, under the real image and with the caption."""
    questions = asked(*sets)
    letters = ["A", *"B" * (len(questions) - 1)]
    rows = [row for condition in ("real", "captioned") for row in answered(questions, letters, condition=condition)]
    return made(questions, rows, curation=curation)


def everything():
    """Questions and predictions that fill every table, and their plan."""
    questions = [
        question(
            id=f"q{n}",
            split="test",
            stratum=("seen", "unseen")[n % 2],
            topic=f"task {n % 3}",
            article=f"a{n // 2}",
            figure=f"f{n}",
            gold="B",
        )
        for n in range(80)
    ]
    rows = []
    for arm, seed, right in (("zero_shot", 0, 3), ("answer_only", 0, 2), ("answer_only", 1, 3)):
        for condition in ("real", "blank"):
            letters = ["+" if n % right == 0 and condition == "real" else "ACD"[n % 3] for n in range(80)]
            about = {"arm": arm, "seed": seed, "model": f"{arm}{seed}", "condition": condition}
            rows += answered(questions, letters, **about)
    base = {"arm": "zero_shot", "model": "zero_shot0"}
    rows += answered(questions, "+AAA" * 20, rotation=1, **base)
    rows += answered(questions[:8], "++AAAAAA", repeat=1, **base)
    student = {"arm": "rationale_then_answer", "model": "r", "text_letter": "B"}
    rows += answered(questions, [*"+" * 70, *[None] * 10], missing="refusal", **student)
    for name in ("cut_0", "cut_25", "cut_50", "cut_75", "cut_100", "mistake"):
        mistake = "A" if name == "mistake" else None
        rows += answered(questions, "++A+" * 20, prefill=name, mistake=mistake, **student)
    entries = {f"{row.arm}/{row.condition}": None for row in rows}
    return questions, rows, default_plan(list(entries))
