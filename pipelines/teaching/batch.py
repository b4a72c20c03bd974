"""Open requests -> files of OpenAI's batch format, and their results -> the ledger: the teacher may live anywhere.

`python -m pipelines.teaching.batch export RECIPE --out requests.jsonl` writes what the ledger does not settle; whoever
answers such files (`vllm run-batch`, a provider's batch API) is given them. `... batch import RECIPE RESULTS.jsonl ...`
puts the answers into the ledger, as if an engine had written them. The stage then seals, and asks what is left.
"""

import argparse
import dataclasses
import json
import os
import re
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra import command_line, recipes, runner
from infra.errors import ArtifactError, ConfigError, InputError
from infra.progress import Progress
from pipelines.images.decoding import UnreadableImageError
from pipelines.inference import conditions, ledger
from pipelines.inference.backends import chat
from pipelines.inference.config import InferenceConfig
from pipelines.inference.ledger import Attempt, Ledger
from pipelines.inference.request_set import PendingQuestion, RequestSet, read_batch
from pipelines.inference.requests import Request
from pipelines.inference.worker import failed
from pipelines.records import Status
from pipelines.teaching import requests
from pipelines.teaching.config import TeachConfig
from pipelines.teaching.results import Results, attempt_of, custom_id

# What OpenAI takes in a file.
MAX_REQUESTS = 50_000
MAX_BYTES = 200_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teaching:
    """The stage `teach` of a run as far as batches need it: its questions, and where its attempts are."""

    questions: Path
    attempts: Path
    own: InferenceConfig
    request_set: RequestSet

    @classmethod
    def of(cls, config: TeachConfig, run_dir: Path) -> "Teaching":
        """What a recipe and a run folder say. Raises ArtifactError when the questions are not sealed yet."""
        if config.top_logprobs:
            raise ConfigError(
                f"teach.top_logprobs is {config.top_logprobs}, and a file of answers tells no token's number. Leave it "
                "out, or have the stage itself ask the teacher."
            )
        runner.check_prerequisites(config)
        questions = runner.sealed_inputs(config, run_dir)["questions"].path
        own = requests.inference(config)
        attempts = ledger.folder_of(ledger.root_of(config.ledger, run_dir), own)
        request_set = requests.request_set(config, own, questions)
        return cls(questions=questions, attempts=attempts, own=own, request_set=request_set)


def export_requests(
    teaching: Teaching,
    out: Path,
    progress: Progress,
    *,
    max_requests: int = MAX_REQUESTS,
    max_bytes: int = MAX_BYTES,
) -> tuple[list[Path], Counter[str]]:
    """Write every request that the ledger does not settle; the files, and what became of the requests.

    The first file is `out`; where one is full, the next is `out` with -00001 before its ending. They take the place of
    those that an earlier call wrote, all together in the end. A request whose image cannot be read is settled in the
    ledger instead; one that would not fit into any file is left open. Counts: `written`, `quarantined`, `too_large`.
    """
    if min(max_requests, max_bytes) < 1:
        raise ConfigError(f"A file of at most {max_requests} requests and {max_bytes} bytes holds none.")
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as workspace:
        plan = teaching.request_set.write_plan(Ledger(teaching.attempts), Path(workspace) / "plan.arrow")
        if not plan.num_questions:
            raise InputError("The questions have none with split `train`, so there is nothing to explain.")
        with _adding(teaching.attempts) as add, _files(out, max_requests, max_bytes) as files:
            done = 0
            if plan.num_open:
                progress(done, plan.num_open, "questions")
            for number in range(plan.num_batches):
                for question in read_batch(plan.path, number):
                    counts += _write_question(question, teaching, files, add)
                    done += 1
                    progress(done, plan.num_open, "questions")
    return files.paths, counts


def _write_question(
    question: PendingQuestion, teaching: Teaching, files: "_Files", add: Callable[[Attempt], None]
) -> Counter[str]:
    """Write what a question is to be asked now: a hint is given when all else is settled, and nothing was right."""
    counts: Counter[str] = Counter()
    waits_for_plain = False
    for request, spent in question.requests:
        if request.hinted and (question.answered or waits_for_plain):
            continue
        try:
            line = _line(request, spent, teaching)
        except UnreadableImageError as error:
            for number in range(spent, teaching.own.attempts):
                add(failed(request, request.seed(number), str(error), Status.QUARANTINED))
            counts["quarantined"] += 1
            continue
        counts["written" if files.add(line) else "too_large"] += 1
        waits_for_plain |= request.needs_answer
    return counts


def _line(request: Request, spent: int, teaching: Teaching) -> bytes:
    own, images = teaching.own, conditions.shown_images(teaching.questions, request)
    urls = map(chat.image_url, images)
    line = {
        "custom_id": custom_id(request, spent),
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": chat.body(own.model.name, request.prompt, urls, own.sampling, request.seed(spent)),
    }
    return json.dumps(line).encode() + b"\n"


class _Files:
    """Lines in files of limited size, which get their names when all of them are whole."""

    def __init__(self, out: Path, max_requests: int, max_bytes: int) -> None:
        self.paths: list[Path] = []
        self._out, self._max_requests, self._max_bytes = out, max_requests, max_bytes
        self._stream: Any = None
        self._num_lines = self._num_bytes = 0

    def add(self, line: bytes) -> bool:
        """Write a line; False for one that is larger than a file may be."""
        if len(line) > self._max_bytes:
            return False
        is_full = self._num_lines >= self._max_requests or self._num_bytes + len(line) > self._max_bytes
        if self._stream is None or is_full:
            self._next()
        self._stream.write(line)
        self._num_lines += 1
        self._num_bytes += len(line)
        return True

    def _next(self) -> None:
        self.close()
        number = len(self.paths)
        name = self._out.name if not number else f"{self._out.stem}-{number:05}{self._out.suffix}"
        self.paths.append(self._out.with_name(name))
        self._stream = _partial(self.paths[-1]).open("wb")
        self._num_lines = self._num_bytes = 0

    def close(self) -> None:
        """Bring what was written to the disk."""
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._stream = None

    def name(self) -> None:
        """Give the files their names, in the place of what an earlier call wrote under them."""
        self.close()
        for path in self.paths:
            _partial(path).replace(path)
        stem, suffix = re.escape(self._out.stem), re.escape(self._out.suffix)
        earlier = re.compile(rf"{stem}(?:-\d{{5}})?{suffix}|\.{stem}(?:-\d{{5}})?{suffix}\.partial")
        for path in list(self._out.parent.iterdir()):
            if earlier.fullmatch(path.name) and path not in self.paths:
                path.unlink()

    def discard(self) -> None:
        """Leave nothing of what has no name yet."""
        if self._stream is not None:
            self._stream.close()
        for path in self.paths:
            _partial(path).unlink(missing_ok=True)


@contextmanager
def _files(out: Path, max_requests: int, max_bytes: int) -> Iterator[_Files]:
    files = _Files(out, max_requests, max_bytes)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield files
        files.name()
    except OSError as error:
        raise ArtifactError(f"{out} cannot be written: {error.strerror}. Free space, or name another --out.") from error
    finally:
        files.discard()


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def import_results(teaching: Teaching, paths: Sequence[Path], progress: Progress) -> Counter[str]:
    """Put results into the ledger, in whatever order they are; what became of them.

    What is in the ledger already is not added again, so that a file may be read twice, or again after a kill. Counts:
    `answered`; `failed: REASON`; `answered before`, `read before`; `of no request here`, `unreadable` lines.
    """
    results = Results(paths)
    counts = Counter({"unreadable": results.num_unreadable}) if results.num_unreadable else Counter()
    known = Ledger(teaching.attempts)
    tried = _tried(teaching.attempts, results)
    if len(results):
        progress(0, len(results), "results")
    with _adding(teaching.attempts) as add:
        for chunk in teaching.request_set.chunks():
            if results.num_taken == len(results):
                break
            asked = [(request, question.options) for question, requests in chunk for request in requests]
            found = known.look_up([request.id for request, _ in asked])
            for place, answers in results.of([request.id for request, _ in asked]):
                request, options = asked[place]
                is_answered = bool(found.answered[place])
                for number, result in answers:
                    made = attempt_of(request, options, number, result)
                    before = tried.get((request.id, made.seed))
                    if is_answered:
                        counts["answered before"] += 1
                    elif before is not None and before >= made.is_text:
                        counts["read before"] += 1
                    else:
                        add(made)
                        tried[request.id, made.seed] = made.is_text
                        is_answered = made.status == Status.ANSWERED
                        counts[f"failed: {made.error}" if made.error else "answered"] += 1
            progress(results.num_taken, len(results), "results")
    if strangers := len(results) - results.num_taken + results.num_strangers:
        counts["of no request here"] = strangers
    return counts


def _tried(attempts: Path, results: "Results") -> dict[tuple[str, int], bool]:
    """Request and seed of each attempt that was no good -> whether there is a text of it; of those that have results
    now."""
    tried: dict[tuple[str, int], bool] = {}
    for path in ledger.files(attempts):
        for attempt in ledger.attempts(path):
            if attempt.status != Status.ANSWERED and attempt.id in results:
                one = (attempt.id, attempt.seed)
                tried[one] = attempt.is_text or tried.get(one, False)
    return tried


@contextmanager
def _adding(attempts: Path) -> Iterator[Callable[[Attempt], None]]:
    """A function that writes into a file of the ledger of its own, which is made when there is something to write."""
    writers: list[ledger.Writer] = []

    def add(attempt: Attempt) -> None:
        if not writers:
            writers.append(ledger.Writer(attempts / f"batch-{uuid.uuid4().hex[:16]}.jsonl"))
        writers[0].add(attempt)

    try:
        yield add
    finally:
        for writer in writers:
            writer.sync()
            writer.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of batches."""
    program = "python -m pipelines.teaching.batch"
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="export|import")
    words = command_line.argument_parser(program, "", dry_run=False)
    writing = verbs.add_parser("export", parents=[words], conflict_handler="resolve", help="write the open requests")
    writing.add_argument("--out", required=True, type=Path, metavar="requests.jsonl", help="the first file")
    writing.add_argument("--max-requests", type=int, default=MAX_REQUESTS, help="in a file; default %(default)s")
    writing.add_argument("--max-bytes", type=int, default=MAX_BYTES, help="of a file; default %(default)s")
    reading = verbs.add_parser(
        "import", parents=[words], conflict_handler="resolve", help="read results into the ledger"
    )
    reading.add_argument("results", nargs="+", type=Path, metavar="RESULTS.jsonl", help="files of results")
    progress = Progress("batch")
    with command_line.reporting_errors("batch"):
        options = parser.parse_args(arguments)
        config = recipes.resolve(options.recipe, ["pipelines"], options.set, only="teach")["teach"]
        command_line.interrupt_on_sigterm()
        teaching = Teaching.of(config, command_line.run_directory(options))
        if options.verb == "import":
            counts = import_results(teaching, options.results, progress)
            progress.say(f"read {_told(counts) or 'nothing'}; the ledger is {teaching.attempts}")
            return
        paths, counts = export_requests(
            teaching, options.out, progress, max_requests=options.max_requests, max_bytes=options.max_bytes
        )
        names = ", ".join(map(str, paths)) or "no file, since nothing is left to ask"
        progress.say(f"{_told(counts) or 'written 0'} in {names}")


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())


if __name__ == "__main__":
    main()
