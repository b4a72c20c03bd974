"""Journals -> lineage in MLflow: each stage is a run under the run of its run folder, with the digests of all it read
and made. [edge]

The run of a run folder has the status of its outputs: running while one is made, failed or killed if the last try to
make one failed or was killed, and finished when all of them are.

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
_MAX_TAG_CHARACTERS = 5000  # 8000 in today's MLflow, but a server may be older
_MAX_NAME_CHARACTERS = 250
_MAX_METRICS = 200  # in a request, so that one takes less than a second
_MAX_OTHERS = 100  # parameters or tags in a request; MLflow allows no more
_NOT_OF_A_NAME = re.compile(r"[^\w./ -]")
_CHILDREN_ASKED_FOR = 1000  # at a time
_STATES = ("RUNNING", "FAILED", "KILLED", "FINISHED")  # a run folder has the first that one of its outputs has
_POLL_S = 1.0
_LOCK_TIMEOUT_S = 15.0  # others record one journal each meanwhile, on a busy machine
_LAST_PASS_S = 120  # this process ends after that time, even if nobody waits for it


class Recording:
    """Brings the journals of one folder into MLflow; a step that is done twice leaves the same records as once."""

    def __init__(self, folder: Path) -> None:
        self._uri = tracking_store.opened()
        _say("ready")  # from here on, waiting depends on the store, not on this machine
        self._folder = folder
        self._client = MlflowClient(tracking_uri=self._uri)
        self._runs: dict[Path, str] = {}
        self._parents: dict[str, str] = {}

    def record_all(self) -> None:
        """Record what is new in every journal, and remove those that are recorded completely.

        Raises PreceptorError for a journal with anything that no stage writes, after the others are recorded.
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
        gone = journal.is_abandoned(path)  # asked before reading, so that the text read has the end, if one was written
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
        """The run of a journal, and how many of the journal's numbers it already has."""
        known = self._runs.get(entry.path)
        try:
            before = json.loads(_progress(entry.path).read_text())
        except (OSError, ValueError):
            before = {"run": None, "sent": 0}
        run_id = known or self._find_or_create(entry)
        self._runs[entry.path] = run_id
        return run_id, before["sent"] if before["run"] == run_id else 0  # the store may be another one than last time

    def _find_or_create(self, entry: Entry) -> str:
        experiment = self._experiment(Path(entry.header["run_dir"]))
        found = self._client.search_runs([experiment], f"tags.`{_ENTRY}` = '{entry.path.stem}'", max_results=1)
        if found:
            self._parents[found[0].info.run_id] = found[0].data.tags.get(_PARENT, "")
            return str(found[0].info.run_id)
        header = entry.header
        output = header["output"]
        parent = self._parent(experiment, header["run_dir"])
        run = self._client.create_run(
            experiment,
            start_time=header["started_ms"],
            run_name=header["stage"] if "/" not in output else f"{header['stage']} {output.rpartition('/')[2]}",
            tags={
                _PARENT: parent,
                _ENTRY: entry.path.stem,
                _OUTPUT: _text(output)[:_MAX_TAG_CHARACTERS],
            },
        )
        self._parents[run.info.run_id] = parent
        self._client.update_run(parent, "RUNNING")
        _say("run")
        return str(run.info.run_id)

    def _settle(self, child: str) -> None:
        """Set the status of the run folder's run from the last runs of its outputs."""
        parent = self._parents[child]
        last = {}
        for run in self._children(parent):
            last[run.data.tags.get(_OUTPUT, run.info.run_name)] = run.info
        if not last:
            return
        states = {info.status for info in last.values()}
        state = next((state for state in _STATES if state in states), "FINISHED")
        if state == "RUNNING":
            self._client.update_run(parent, state)
        else:
            self._client.set_terminated(parent, state, end_time=max(info.end_time or 0 for info in last.values()))
        _say("settled")

    def _children(self, parent: str) -> Iterator[Any]:
        """The runs of outputs under a run folder's run, oldest first; none if somebody has deleted that run."""
        experiment = str(self._client.get_experiment_by_name(EXPERIMENT).experiment_id)
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
        """The run of the run folder. MLflow's filters cannot hold a quote, so LIKE matches any character there."""
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
        """Log metrics, parameters or tags, all of one kind; a tag names those that MLflow refuses."""
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
    """How a killed stage ended: it may have sealed its artifact before it could write so."""
    with suppress(OSError, ValueError), open_file(Path(entry.header["place"]) / manifest.MANIFEST) as stream:
        stated = manifest.read(stream)
        at_ms = os.fstat(stream.fileno()).st_mtime_ns // 1_000_000
        if stated.key == entry.header["key"] and at_ms >= entry.header["started_ms"]:
            return {"end": "FINISHED", "manifest": vars(stated), "at_ms": at_ms}
    return {"end": "KILLED", "at_ms": None}  # it has sealed nothing


def _numbers(stated: Mapping[str, Any], at_ms: int) -> list[Metric]:
    """Counts and metrics of a manifest."""
    tally = stated["tally"]
    numbers = {
        **{f"rows.{name}": count for name, count in tally["rows"].items()},
        **{f"rejected.{name}": count for name, count in tally["reasons"].items()},
        **{f"quarantined.{name}": count for name, count in tally["quarantined"].items()},
        **tally["metrics"],
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
    """A name that MLflow allows: in its characters and length, and no path that leads upwards."""
    path = posixpath.normpath(_NOT_OF_A_NAME.sub("_", name)).lstrip("/").replace("..", "__")
    return (path if path.strip(". ") else "_")[:_MAX_NAME_CHARACTERS].rstrip("/")


def _text(value: str) -> str:
    """The text in characters that can be stored; a file's name may have bytes that are no characters."""
    return value.encode("utf-8", "replace").decode().replace("\0", "?")


def _say(word: str) -> None:
    try:
        print(word, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - nobody listens any more, but the work goes on


def _reason(error: Exception) -> str:
    """What went wrong, in one line; for a server that is not reached, MLflow's own message names every layer."""
    if isinstance(error.__context__, OSError) and (uri := os.environ.get(journal.STORE_VARIABLE)):
        return f"{uri} does not answer: {type(error.__context__).__name__}"
    return first_line(error)


def _follow(folder: Path) -> None:
    """Record until the stage says the end or is gone, and then once more."""
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
