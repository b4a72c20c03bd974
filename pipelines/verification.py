"""Rationale -> verdict: whether what the teacher wrote may teach, and if not, why."""

from collections import Counter

from infra import stage
from infra.errors import InputError
from infra.manifest import Tally
from infra.stage import Task
from pipelines import answers, tables
from pipelines.records import Question, Rationale, Verdict

ACCEPTED = "accepted"


def verify(rationale: Rationale, question: Question) -> Verdict:
    """Accept a finished rationale whose answer is the gold option, and whose reasoning is not empty."""
    letter = None if rationale.error else answers.read_letter(rationale.text, question.options)
    body = answers.without_answer(rationale.text)
    reason = _reason(rationale, question, letter, body)
    return Verdict(
        question_id=question.id,
        accepted=reason == ACCEPTED,
        reason=reason,
        letter=letter,
        text=rationale.text,
        body=body,
    )


def _reason(rationale: Rationale, question: Question, letter: str | None, body: str) -> str:
    if rationale.error:
        return "failed"
    if rationale.finish_reason != "stop":
        return "truncated"
    if letter is None:
        return "no_answer"
    if letter != question.gold:
        return "answer_disagrees_with_gold"
    if not body:
        return "no_reasoning"
    return ACCEPTED


def run(task: Task) -> Tally:
    """Judge every rationale; write `verdicts.parquet`."""
    questions = {question.id: question for question in tables.read(task.inputs["questions"].path, Question)}
    rationales = tables.read(task.inputs["rationales"].path, Rationale)
    verdicts = [verify(rationale, questions[rationale.question_id]) for rationale in rationales]
    reasons = Counter(verdict.reason for verdict in verdicts)
    accepted = reasons.pop(ACCEPTED, 0)
    if not accepted:
        raise InputError(
            f"None of {len(verdicts)} rationales was accepted: {dict(reasons)}. Look at the teacher's prompt."
        )
    tables.write(task.draft, Verdict, verdicts)
    share = round(accepted / len(verdicts), 4)
    return Tally(
        rows={"rationales": len(verdicts), "accepted": accepted},
        reasons=dict(reasons),
        figures={"accepted_share": share},
    )


if __name__ == "__main__":
    stage.main("verify", "pipelines")
