"""Journals -> lineage in MLflow: each stage is a run under the run of its run folder, with the digests of all it read
and made. [edge]

The run of a run folder is what its outputs are: running while one is made, failed or killed where the last try to make
one was, and finished when all of them are.

`python -m infra.tracking store` makes a new SQLite store whole, where there is none. `python -m infra.tracking follow
FOLDER` records the journals of a folder until its standard input says the end; it prints a line after each request, and
the reason as its last line when it exits with 1. The store is MLFLOW_TRACKING_URI, or a SQLite file beside the run
folders, which is where it is started.
"""

import json
import logging
import os
import posixpath
import re
import select
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS, ErrorCode

from infra import journal, manifest, tracking_store
from infra.errors import PreceptorError, first_line
from infra.folders import locked, open_file
from infra.journal import Entry

EXPERIMENT = "preceptor"
_RUN_DIR = "preceptor.run_dir"
_ENTRY = "preceptor.journal"
_OUTPUT = "preceptor.output"
_REFUSED = "preceptor.refused"
_PARENT = "mlflow.parentRunId"
_MAX_PARAMETER_CHARACTERS = 6000
_MAX_TAG_CHARACTERS = 5000  # 8000 for today's MLflow; a server may be older
_MAX_NAME_CHARACTERS = 250
_MAX_METRICS = 200  # of a request, so that one takes less than a second
_MAX_OTHERS = 100  # parameters or tags of a request; MLflow takes no more
_NOT_OF_A_NAME = re.compile(r"[^\w./ -]")
_CHILDREN_ASKED_FOR = 1000  # at a time
_STATES = ("RUNNING", "FAILED", "KILLED", "FINISHED")  # the first that one of a run folder's outputs has is its own
_POLL_S = 1.0
_LOCK_TIMEOUT_S = 15.0  # for the others to record a journal each, on a busy machine
_LAST_PASS_S = 120  # this process ends then, even if nobody waits for it any more


class Recording:
    """Brings the journals of one folder into MLflow; each step can be done again without a trace of the first time."""

    def __init__(self, folder: Path) -> None:
        self._uri = tracking_store.opened()
        _say("ready")  # what follows depends on the store, and not on how fast this machine is
        self._folder = folder
        self._client = MlflowClient(tracking_uri=self._uri)
        self._runs: dict[Path, str] = {}

    def record_all(self) -> None:
        """Record what is new in every journal, and remove those that are recorded whole.

        Raises PreceptorError, once the others are recorded, for one that holds something else than a stage writes.
        """
        tracking_store.check(self._uri)
        strange = None
        for path in sorted(self._folder.glob(f"*{journal.SUFFIX}")):
            with locked(self._folder / ".lock", _LOCK_TIMEOUT_S):  # two stages of a run folder may end at the same time
                try:
                    self._record_one(path)
                except (LookupError, TypeError, ValueError) as error:
                    strange = PreceptorError(f"{path} holds what cannot be recorded: {error!r}; move it elsewhere")
        if strange:
            raise strange

    def _record_one(self, path: Path) -> None:
        gone = journal.is_abandoned(path)  # asked first: what is read then has the end, if one was written
        entry = journal.read(path)
        if entry is not None:
            self._record(entry, gone=gone)
        elif gone:
            _remove(path)

    def _record(self, entry: Entry, *, gone: bool) -> None:
        run_id, sent = self._run(entry)
        for batch in _batches(entry.metrics[sent:], _MAX_METRICS):
            self._send(run_id, [Metric(_name(name), value, at, step) for name, value, step, at in batch])
            sent += len(batch)
            manifest.write_json(_progress(entry.path), {"run": run_id, "sent": sent})
        ended = entry.ended or (_as_killed(entry) if gone else None)
        if ended is None:
            return
        if stated := ended.get("manifest"):
            self._send(run_id, _numbers(stated, ended["at_ms"]))
            self._send(run_id, _parameters(stated))
            self._send(run_id, _tags(stated, entry))
        self._client.set_terminated(run_id, ended["end"], end_time=ended["at_ms"])
        self._settle(run_id)
        _remove(entry.path)
        _say("recorded")

    def _run(self, entry: Entry) -> tuple[str, int]:
        """The run of a journal, and how many of its numbers it has already."""
        known = self._runs.get(entry.path)
        try:
            before = json.loads(_progress(entry.path).read_text())
        except (OSError, ValueError):
            before = {"run": None, "sent": 0}
        run_id = known or self._find_or_create(entry)
        self._runs[entry.path] = run_id
        return run_id, before["sent"] if before["run"] == run_id else 0  # it may be another store than last time

    def _find_or_create(self, entry: Entry) -> str:
        experiment = self._experiment(Path(entry.header["run_dir"]))
        found = self._client.search_runs([experiment], f"tags.`{_ENTRY}` = '{entry.path.stem}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        header = entry.header
        output = header["output"]
        run = self._client.create_run(
            experiment,
            start_time=header["started_ms"],
            run_name=header["stage"] if "/" not in output else f"{header['stage']} {output.rpartition('/')[2]}",
            tags={
                _PARENT: self._parent(experiment, header["run_dir"]),
                _ENTRY: entry.path.stem,
                _OUTPUT: _text(output)[:_MAX_TAG_CHARACTERS],
            },
        )
        _say("run")
        self._settle(run.info.run_id)
        return str(run.info.run_id)

    def _settle(self, child: str) -> None:
        """Let the run of the run folder say what the last runs of its outputs have become, this one among them."""
        own = self._client.get_run(child)
        parent = own.data.tags.get(_PARENT, "")
        last = {}
        for run in self._children(own.info.experiment_id, parent):
            last[run.data.tags.get(_OUTPUT, run.info.run_name)] = run.info
        if not last:
            return
        state = next(state for state in _STATES if state in {info.status for info in last.values()})
        if state == "RUNNING":
            self._client.update_run(parent, state)
        else:
            self._client.set_terminated(parent, state, end_time=max(info.end_time or 0 for info in last.values()))
        _say("settled")

    def _children(self, experiment: str, parent: str) -> Iterator[Any]:
        """The runs of outputs under the run of a run folder, the oldest first; none where somebody has deleted it."""
        if not self._client.search_runs([experiment], f"attributes.run_id = '{parent}'", max_results=1):
            return
        token = None
        while True:
            page = self._client.search_runs(
                [experiment],
                f"tags.`{_PARENT}` = '{parent}'",
                max_results=_CHILDREN_ASKED_FOR,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            if not (token := page.token):
                return

    def _experiment(self, run_dir: Path) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            try:
                return str(self._client.create_experiment(EXPERIMENT, tracking_store.files(self._uri, run_dir)))
            except MlflowException as error:
                if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                    raise
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
        return str(experiment.experiment_id)

    def _parent(self, experiment: str, run_dir: str) -> str:
        """The run of the run folder. MLflow's filters have no way to write a quote, so LIKE finds any character."""
        run_dir = _text(run_dir)
        pattern = re.sub(r"['\"\\`]", "_", run_dir)
        token = None
        while True:
            page = self._client.search_runs([experiment], f"tags.`{_RUN_DIR}` LIKE '{pattern}'", page_token=token)
            for run in page:
                if run.data.tags.get(_RUN_DIR) == run_dir:
                    return str(run.info.run_id)
            if not (token := page.token):
                break
        run = self._client.create_run(experiment, run_name=posixpath.basename(run_dir), tags={_RUN_DIR: run_dir})
        return str(run.info.run_id)

    def _send(self, run_id: str, entities: Sequence[Any]) -> None:
        """Log metrics, parameters or tags, all of a kind; what MLflow does not take is named in a tag."""
        kind = {Metric: "metrics", Param: "params", RunTag: "tags"}
        refused: list[str] = []
        for batch in _batches(entities, _MAX_METRICS if entities and isinstance(entities[0], Metric) else _MAX_OTHERS):
            refused += self._refused(run_id, kind[type(batch[0])], batch)
            _say("batch")
        if refused:
            self._client.set_tag(run_id, _REFUSED, ", ".join(sorted(set(refused)))[:_MAX_TAG_CHARACTERS])

    def _refused(self, run_id: str, kind: str, batch: Sequence[Any]) -> list[str]:
        try:
            self._client.log_batch(run_id, **{kind: list(batch)})
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(INVALID_PARAMETER_VALUE):
                raise
            if len(batch) == 1:
                return [batch[0].key]
            half = len(batch) // 2
            return self._refused(run_id, kind, batch[:half]) + self._refused(run_id, kind, batch[half:])
        return []


def _batches(entities: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(entities), size):
        yield entities[start : start + size]


def _progress(path: Path) -> Path:
    return path.with_suffix(".sent")


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _progress(path).unlink(missing_ok=True)


def _as_killed(entry: Entry) -> dict[str, Any]:
    """How a stage ended that did not live to write it: it may have sealed its artifact before."""
    with suppress(OSError, ValueError), open_file(Path(entry.header["place"]) / manifest.MANIFEST) as stream:
        stated = manifest.read(stream)
        at_ms = os.fstat(stream.fileno()).st_mtime_ns // 1_000_000
        if stated.key == entry.header["key"] and at_ms >= entry.header["started_ms"]:
            return {"end": "FINISHED", "manifest": vars(stated), "at_ms": at_ms}
    return {"end": "KILLED", "at_ms": None}  # nothing there that was sealed


def _numbers(stated: Mapping[str, Any], at_ms: int) -> list[Metric]:
    """Counts and figures of a manifest."""
    tally = stated["tally"]
    numbers = {
        **{f"rows.{name}": count for name, count in tally["rows"].items()},
        **{f"rejected.{name}": count for name, count in tally["reasons"].items()},
        **{f"quarantined.{name}": count for name, count in tally["quarantined"].items()},
        **tally["figures"],
        "seconds": stated["seconds"],
    }
    return [Metric(_name(name), float(value), at_ms, 0) for name, value in numbers.items()]


def _parameters(stated: Mapping[str, Any]) -> list[Param]:
    """The settings of a manifest, as JSON."""
    config = stated["made_from"]["config"]
    return [Param(_name(name), _text(json.dumps(value)[:_MAX_PARAMETER_CHARACTERS])) for name, value in config.items()]


def _tags(stated: Mapping[str, Any], entry: Entry) -> list[RunTag]:
    """Where the artifact is, its digest, and the digests of what it was made from."""
    origin = stated["made_from"]
    tags = {
        "preceptor.artifact": entry.header["place"],
        "preceptor.digest": stated["digest"],
        "preceptor.key": stated["key"],
        **{f"preceptor.input.{name}": digest for name, digest in origin["inputs"].items()},
        **{f"preceptor.material.{name}": digest for name, digest in origin["materials"].items()},
        "preceptor.code": json.dumps(stated["code"]),
    }
    return [RunTag(_name(name), _text(value)[:_MAX_TAG_CHARACTERS]) for name, value in tags.items()]


def _name(name: str) -> str:
    """A name that MLflow takes: some characters, no longer than it may be, and a path that stays where it is."""
    path = posixpath.normpath(_NOT_OF_A_NAME.sub("_", name)).lstrip("/").replace("..", "__")
    return (path if path.strip(". ") else "_")[:_MAX_NAME_CHARACTERS].rstrip("/")


def _text(value: str) -> str:
    """Characters that can be stored; a file's name may have bytes that are none."""
    return value.encode("utf-8", "replace").decode().replace("\0", "?")


def _say(word: str) -> None:
    try:
        print(word, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - nobody listens any more, and there is work to end


def _reason(error: Exception) -> str:
    """What went wrong, in one line; of a server that was not reached, MLflow says each layer that noticed."""
    if isinstance(error.__context__, OSError) and (uri := os.environ.get(journal.STORE_VARIABLE)):
        return f"{uri} does not answer: {type(error.__context__).__name__}"
    return first_line(error)


def _follow(folder: Path) -> None:
    """Record until the stage says the end, or is gone, and then a last time."""
    stage = os.getppid()
    recording = Recording(folder)
    ended = False
    while not ended:
        recording.record_all()
        ended = bool(select.select([sys.stdin], [], [], _POLL_S)[0]) or os.getppid() != stage
    signal.alarm(_LAST_PASS_S)
    recording.record_all()


def main(arguments: Sequence[str]) -> None:
    """The command line; exits with 1 after one line that says why."""
    logging.disable(logging.CRITICAL)  # one line says what went wrong, and MLflow's log would say it again at length
    try:
        tracking_store.enter()
        match arguments:
            case ["follow", folder]:
                _follow(Path(folder))
            case ["store"]:
                print(tracking_store.opened())
            case _:
                raise PreceptorError("python -m infra.tracking follow FOLDER, or store")
    except Exception as error:  # noqa: BLE001 - a store can fail in any way, and this process has one way to say it
        _say(_reason(error))
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
