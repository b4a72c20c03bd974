"""Adapters -> served models: one Ray Serve application that outlives its job, and endpoint.json. [edge]

`python -m serve.app RECIPE --run-dir DIR --wait` deploys a finished run and serves it until Ctrl-C.
"""

import dataclasses
import logging
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.serve
from ray.serve._private.build_app import build_app
from ray.serve.api import RunTarget
from ray.serve.deployment import deployment_to_schema
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, LoggingConfig

from infra import cluster, command_line
from infra.errors import ClusterError, ConfigError
from infra.manifest import Artifact, Tally
from infra.resources import total
from infra.stage import Task
from pipelines.inference.backends.client import api_key
from pipelines.inference.backends.engine_config import EngineConfig
from pipelines.records import Question, tables
from pipelines.records.endpoint import Endpoint
from serve import readiness
from serve.adapters import folder
from serve.adapters.base_model import open_base
from serve.api.access_control import required_key_digest
from serve.api.endpoint import HttpEndpoint
from serve.api.validation import Limits
from serve.catalogue import Catalogue, HostedModel, read_catalogue
from serve.engine.replica import ModelReplica, import_engine
from serve.recipes import DeployConfig

APPLICATION = "preceptor"
_POLL_S = 0.2
_STOP_TIMEOUT_S = 5.0
_REQUESTS_PER_SEQUENCE = 4  # more than the endpoint has slots for, even when one replica gets most of the requests
_ERROR_LINE = re.compile(r"^[\w.]+(Error|Exception): ", re.MULTILINE)
_ERROR_LINES_SHOWN = 4
_ENVIRONMENT = {
    # All code in an engine's replica is asynchronous: running it in a separate thread costs a switch for each token.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    "VLLM_MEDIA_FETCH_MAX_RETRIES": "1",
    "VLLM_MEDIA_LOADING_THREAD_COUNT": "4",  # images that are decoded at the same time
    "MALLOC_ARENA_MAX": "2",  # glibc keeps what each of these threads has freed: 60 to 120 MiB of a replica
}
_ON_THE_HEAD = {"node:__internal_head__": 0.001}  # where clients look for the endpoint


def run(task: Task) -> Tally:
    """Serve base, adapters and teacher; write endpoint.json once every one of them has answered."""
    started = time.monotonic()
    config = sized_for_questions(task.config, task.inputs["questions"].path)
    catalogue = catalogue_of(config, task.inputs)
    if catalogue.teacher is None:
        config = dataclasses.replace(config, teacher=None)
    application = build(config, catalogue, required_key_digest(config.host))
    endpoint = Endpoint(base_url=base_url(config), models=catalogue.models)
    external = () if catalogue.external_teacher is None else (catalogue.external_teacher,)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    cluster.connect()
    workers = config.resources()
    cpus, gpus = total(workers)
    cluster.require(task.progress.say, cpus=cpus, gpus=gpus)
    stop()
    check_port(config.host, config.port)
    task.progress.say(f"starting {len(catalogue.models)} models in {len(workers)} engines")
    try:
        _deploy(application, config)
        readiness.check(endpoint, api_key(), config.start_timeout_s)
    except BaseException:
        stop()  # what has started would keep its memory and the port
        raise
    seconds = time.monotonic() - started
    task.progress.say(f"{endpoint.base_url} answers as {', '.join(model.name for model in endpoint.models)}")
    for model in external:
        task.progress.say(f"{model.name} answers at {model.base_url}")
    dataclasses.replace(endpoint, models=(*endpoint.models, *external)).write(task.draft)
    return Tally(rows={"models": len(endpoint.models) + len(external)}, metrics={"start_seconds": round(seconds, 1)})


def sends(config: DeployConfig, inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """For a rehearsal: the arguments of each vLLM engine that the stage would start.

    Raises ConfigError when Ray Serve would not take the application, or would scatter a replica over nodes.
    """
    catalogue = catalogue_of(config, inputs)
    application = assemble(config, catalogue, folder.LOADABLE_RANKS[0], required_key_digest(config.host))
    for deployment in build_app(application, name=APPLICATION).deployments:
        schema = deployment_to_schema(deployment).model_dump(exclude_unset=True)
        if len(schema.get("placement_group_bundles") or ()) > 1 and schema["placement_group_strategy"] != "STRICT_PACK":
            raise ConfigError(
                f"Ray Serve may place the GPUs of one replica of {deployment.name} on several nodes "
                f"({schema['placement_group_strategy']}); its engine expects them on one: STRICT_PACK."
            )
    engine, limits = import_engine(), limits_of(config)
    sent = []
    for spec in engine_specs(config, catalogue, folder.LOADABLE_RANKS[0]):
        llm_config = engine.llm_config(spec.model, spec.config, spec.adapters, spec.max_rank, limits)
        arguments = {name: value for name, value in llm_config.engine_kwargs.items() if name != "lora_modules"}
        sent.append({"model": spec.model.source, **arguments})
    return sent


def catalogue_of(config: DeployConfig, inputs: Mapping[str, Artifact]) -> Catalogue:
    """The models that these settings serve."""
    return read_catalogue(inputs, config.arms, config.seeds, student=config.student, teacher=config.teacher)


def sized_for_questions(config: DeployConfig, questions_artifact: Path) -> DeployConfig:
    """The settings, with engines that take a request with as many images as the question with the most has."""
    num_images = max(len(question.images) for question in tables.read(questions_artifact, Question))
    teacher = None if config.teacher is None else config.teacher.taking(num_images)
    return dataclasses.replace(config, student=config.student.taking(num_images), teacher=teacher)


def build(config: DeployConfig, catalogue: Catalogue, key_digest: str | None) -> ray.serve.Application:
    """The application: an ingress in front of the engines, of which the student's has the adapters.

    key_digest: of the key that requests must carry, or None. Raises InputError for an adapter that the engine could not
    load.
    """
    base = open_base(catalogue.base.source, catalogue.base.served.digest, catalogue.base.revision)
    ranks = [folder.open_adapter(Path(adapter.source), base).rank for adapter in catalogue.adapters]
    return assemble(config, catalogue, folder.loadable_rank(ranks), key_digest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """An engine of the application. name: of its deployment. adapters: name -> folder. max_rank: of its adapters."""

    name: str
    model: HostedModel
    config: EngineConfig
    adapters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    max_rank: int = 0


def engine_specs(config: DeployConfig, catalogue: Catalogue, max_rank: int) -> list[EngineSpec]:
    """The engines of the application: the student's, and the teacher's where it is served."""
    adapters = {adapter.name: adapter.source for adapter in catalogue.adapters}
    student = EngineSpec(
        name="Student", model=catalogue.base, config=config.student, adapters=adapters, max_rank=max_rank
    )
    if catalogue.teacher is None or config.teacher is None:
        return [student]
    return [student, EngineSpec(name="Teacher", model=catalogue.teacher, config=config.teacher)]


def limits_of(config: DeployConfig, key_digest: str | None = None) -> Limits:
    """What a request may ask for.

    key_digest: of the key that requests must carry; without one, none may begin its own answer.
    """
    engines = [config.student, *([] if config.teacher is None else [config.teacher])]
    return Limits(
        max_answer_tokens=config.max_answer_tokens,
        max_images=max(engine.images_per_request for engine in engines),
        max_image_pixels=config.max_image_pixels,
        image_domains=config.image_domains,
        prefill=config.prefill and key_digest is not None,
    )


def assemble(
    config: DeployConfig, catalogue: Catalogue, max_rank: int, key_digest: str | None
) -> ray.serve.Application:
    """The application of models that can be loaded. max_rank: the engine's limit for the adapters' ranks."""
    limits = limits_of(config, key_digest)
    specs = engine_specs(config, catalogue, max_rank)
    bound = {
        spec.model.name: engine_deployment(spec.name, spec.config, limits).bind(
            spec.model, spec.config, spec.adapters, spec.max_rank, limits
        )
        for spec in specs
    }
    num_sequences = {spec.model.name: spec.config.replicas * spec.config.max_num_seqs for spec in specs}
    engine_of = {name: spec.model.name for spec in specs for name in (spec.model.name, *spec.adapters)}
    endpoint = ray.serve.deployment(
        HttpEndpoint,
        name="Endpoint",
        num_replicas=1,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=_STOP_TIMEOUT_S,
        ray_actor_options={"num_cpus": 0, "resources": _ON_THE_HEAD, "runtime_env": {"env_vars": _ENVIRONMENT}},
    )
    return endpoint.bind(
        bound, num_sequences, engine_of, key_digest, limits, config.answer_timeout_s, config.host, config.port
    )


def engine_deployment(name: str, config: EngineConfig, limits: Limits) -> ray.serve.Deployment:
    """The deployment of one engine's replicas, each with all of its GPUs on one node."""
    environment = _ENVIRONMENT | config.environment() | {"VLLM_MAX_IMAGE_PIXELS": str(limits.max_image_pixels)}
    return ray.serve.deployment(
        ModelReplica,
        name=name,
        num_replicas=config.replicas,
        max_ongoing_requests=_REQUESTS_PER_SEQUENCE * config.max_num_seqs,
        # A model that fails to start fails the second time too: its error is reported at once.
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=_STOP_TIMEOUT_S,
        placement_group_bundles=config.workers(name).bundles(),
        # Ray's default only prefers one node for a replica's GPUs; on several they are as slow as the network.
        placement_group_strategy="STRICT_PACK",
        ray_actor_options={"num_cpus": config.cpus, "runtime_env": {"env_vars": environment}},
    )


def _deploy(application: ray.serve.Application, config: DeployConfig) -> None:
    """Start Serve and the application, until all replicas are up. Raises ClusterError when one does not start."""
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    ray.serve.start(
        proxy_location="Disabled",
        logging_config=quiet,
        controller_options={"runtime_env": {"env_vars": _ENVIRONMENT}},
    )
    target = RunTarget(target=application, name=APPLICATION, route_prefix=None, logging_config=quiet)
    ray.serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    deadline = time.monotonic() + config.start_timeout_s
    while (status := ray.serve.status().applications[APPLICATION]).status is not ApplicationStatus.RUNNING:
        if status.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise ClusterError(f"An engine did not start. {failure_of(status)}")
        if time.monotonic() > deadline:
            raise ClusterError(
                f"The engines did not start within {config.start_timeout_s:.0f} s ({status.status}). "
                "Give them longer: --set deploy.start_timeout_s=SECONDS; `ray status` shows what they wait for."
            )
        time.sleep(_POLL_S)


def failure_of(status: ApplicationStatusOverview) -> str:
    """The error at the end of the failed replica's traceback, in one line; all of it is in Ray's logs."""
    message = "\n".join(deployment.message for deployment in status.deployments.values()) or status.message
    error = message[max((match.start() for match in _ERROR_LINE.finditer(message)), default=0) :]
    return " ".join(line.strip() for line in error.strip().splitlines()[:_ERROR_LINES_SHOWN])


def stop() -> None:
    """Take the application down, and Serve with it, so that its port is free.

    Raises ClusterError when Serve runs other applications than ours.
    """
    if others := set(ray.serve.status().applications) - {APPLICATION}:
        raise ClusterError(
            f"Serve already runs {', '.join(sorted(others))} on this cluster, and its one HTTP server cannot be "
            "shared. Use another cluster, or take that down first: serve shutdown"
        )
    ray.serve.shutdown()


def check_port(host: str, port: int) -> None:
    """Raise ConfigError when the endpoint could not listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"The endpoint cannot listen on {host}:{port} ({error.strerror}). "
                f"Choose another port: --set deploy.port={port + 1}"
            ) from error


def base_url(config: DeployConfig) -> str:
    """The address that a client on this machine uses."""
    everywhere = config.host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
    host = "127.0.0.1" if everywhere else config.host
    return f"http://{f'[{host}]' if ':' in host else host}:{config.port}/v1"


def main(arguments: Sequence[str]) -> None:
    """The stage's command line, with `--wait`: stay until Ctrl-C and then take the endpoint down."""
    parser = command_line.stage_parser("deploy")
    parser.add_argument("--wait", action="store_true", help="serve until Ctrl-C, then take the endpoint down")
    options = parser.parse_args(arguments)
    waits = options.wait and not options.dry_run
    if waits:
        with command_line.reporting_errors("deploy"):
            cluster.connect()
    command_line.main("deploy", "serve", arguments, parser)
    if waits and ray.is_initialized():
        _serve_until_interrupted()


def _serve_until_interrupted() -> None:
    print("deploy: serving until Ctrl-C", flush=True)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        stop()


if __name__ == "__main__":
    main(sys.argv[1:])
