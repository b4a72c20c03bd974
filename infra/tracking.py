"""Lineage in MLflow: each stage is a run under the run of its run folder, with the digests of all it read and made.
[edge]

The store is MLFLOW_TRACKING_URI, or a SQLite file beside the run folders.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from infra.manifest import Artifact

EXPERIMENT = "preceptor"
_RUN_DIR = "preceptor.run_dir"
_PARENT = "mlflow.parentRunId"
_MAX_PARAMETER_CHARACTERS = 6000
_METRIC_NAME = re.compile(r"[^\w./ -]")  # what MLflow takes in no metric's name


def store(run_dir: Path) -> str:
    """The tracking URI of the runs beside `run_dir`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run_dir.parent.absolute()}/mlflow.db"


class StageRun:
    """The MLflow run of one stage's work on one artifact."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def metric(self, name: str, value: float, step: int = 0) -> None:
        """Log a number at a step."""
        self._client.log_metric(self._run_id, name, float(value), step=step)

    def record(self, artifact: Artifact, inputs: Mapping[str, Artifact]) -> None:
        """Log the sealed artifact's manifest: config as parameters, counts and figures as metrics, digests as tags."""
        config = {
            name: json.dumps(value)[:_MAX_PARAMETER_CHARACTERS] for name, value in artifact.made_from["config"].items()
        }
        numbers = {
            **{f"rows.{name}": count for name, count in artifact.tally["rows"].items()},
            **{f"rejected.{name}": count for name, count in artifact.tally["reasons"].items()},
            **{f"quarantined.{name}": count for name, count in artifact.tally["quarantined"].items()},
            **artifact.tally["figures"],
            "seconds": artifact.manifest.seconds,
        }
        tags = {
            "preceptor.artifact": str(artifact.path),
            "preceptor.digest": artifact.digest,
            "preceptor.key": artifact.manifest.key,
            **{f"preceptor.input.{name}": source.digest for name, source in inputs.items()},
            **{f"preceptor.material.{name}": digest for name, digest in artifact.made_from["materials"].items()},
            "preceptor.code": json.dumps(artifact.manifest.code),
        }
        now = self._client.get_run(self._run_id).info.start_time
        self._client.log_batch(
            self._run_id,
            metrics=[Metric(_METRIC_NAME.sub("_", name), float(value), now, 0) for name, value in numbers.items()],
            params=[Param(name, value) for name, value in config.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )


@contextmanager
def stage_run(run_dir: Path, stage: str, output: str) -> Iterator[StageRun]:
    """An MLflow run for one stage, under the run folder's own; marked as failed when the stage raises."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=store(run_dir))
    parent = _parent(client, run_dir)
    name = stage if output.count("/") == 0 else f"{stage} {output.rpartition('/')[2]}"
    run = client.create_run(parent.info.experiment_id, run_name=name, tags={_PARENT: parent.info.run_id})
    try:
        yield StageRun(client, run.info.run_id)
    except BaseException:
        client.set_terminated(run.info.run_id, "FAILED")
        raise
    client.set_terminated(run.info.run_id, "FINISHED")


def _parent(client: MlflowClient, run_dir: Path) -> Run:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    quoted = str(run_dir).replace("'", "")
    found = client.search_runs([experiment_id], f"tags.`{_RUN_DIR}` = '{quoted}'", max_results=1)
    if found:
        return found[0]
    run = client.create_run(experiment_id, run_name=run_dir.name, tags={_RUN_DIR: quoted})
    client.set_terminated(run.info.run_id, "FINISHED")
    return run
