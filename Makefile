# Preceptor: question -> teach -> verify -> compose -> fit -> deploy -> examination -> report
#
#   make demo           set-up and the whole flow at pocket scale, on a machine without a GPU
#   make test           set-up and all tests, the real engines included
#   make test-fast      the tests that start no engine and are not slow
#   make check          format, lint, types, import laws
#   make bench-questions  time and memory of the questions stage, from 10,000 to 1,000,000 rows
#   make bench-contamination  copied images that curation finds again, others that it takes for them, and the cost
#   make bench-images  speed, size and looks of images that pass the image sandbox
#   make bench-teacher  the teacher against raw vLLM and Ray Data LLM, killed and resumed, and its machinery alone
#   make bench-reading  what images cost on their way to models
#   make bench-examination  an examination as large as PMC-VQA's: memory, speed, killed and resumed
#   make bench-coverage  how often the intervals of an examination hold the truth
#   make bench-train  a fit against TRL, with its defaults and grouped by length, and the overhead of our loop
#   make bench-client  an examination's client against an endpoint of fixed latency, with images of 1 Mpx
#   make bench-report  the report of an examination as large as PMC-VQA's: time, memory, size
#   make bench-overload  the endpoint of the last demo at its capacity and at twice that
#   make fuzz           the property tests, on many more examples and other ones each time
#   make fuzz-images  mutated files of every format through the image sandbox
#   make kill-flow  the whole flow, killed two dozen times at random moments
#   make fuzz-endpoint  hostile requests at the endpoint of the last demo
#   make ui             MLflow over the runs
#   make up             the endpoint of the last demo, until Ctrl-C
#   make pocket-models  train the pocket teacher and base student again, from scratch
#   make setup PROFILE=gpu   the environment of a CUDA machine

PYTHON ?= python3.11
PROFILE ?= cpu
RUNS ?= runs
UI_PORT ?= 5000
RUN := .venv/bin/python
TWO_PROCESSES := --numprocesses 2 --dist loadfile --no-loadscope-reorder
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup demo test test-fast check bench-questions bench-contamination bench-images bench-reading bench-teacher bench-train bench-examination bench-coverage bench-client bench-report bench-overload fuzz fuzz-images fuzz-endpoint kill-flow ui up pocket-models
help:
	@sed -n 's/^# \{0,1\}//p' Makefile

setup:
	@$(PYTHON) infra/environment/setup.py $(PROFILE) .venv

demo: setup
	@$(RUN) -m pipelines.flow pocket --run-dir $(RUNS)/pocket

test: setup
	@$(RUN) -m pytest $(TWO_PROCESSES)

test-fast: setup
	@$(RUN) -m pytest $(TWO_PROCESSES) -m 'not engine and not slow'

check: setup
	@ruff format --check . && ruff check . && mypy && lint-imports

bench-questions: setup
	@$(RUN) -m tests.benchmarks.bench_questions $(ROWS)

bench-contamination: setup
	@$(RUN) -m tests.benchmarks.bench_contamination $(IMAGES)

bench-images: setup
	@$(RUN) -m tests.benchmarks.bench_images $(IMAGES)

bench-reading: setup
	@$(RUN) -m tests.benchmarks.bench_reading

bench-teacher: setup
	@$(RUN) -m tests.benchmarks.bench_teacher $(REPETITIONS)

bench-train: setup
	@$(RUN) -m tests.benchmarks.bench_train $(REPETITIONS)

bench-examination: setup
	@$(RUN) -m tests.benchmarks.bench_examination $(QUESTIONS)

bench-coverage: setup
	@$(RUN) -m tests.benchmarks.bench_coverage $(EXAMINATIONS)

bench-client: setup
	@$(RUN) -m tests.benchmarks.bench_client

bench-report: setup
	@$(RUN) -m tests.benchmarks.bench_report build/bench/report --questions 33430 --entries many

bench-overload: setup
	@$(RUN) -m tests.benchmarks.bench_overload $(SECONDS)

fuzz: setup
	@$(RUN) -m pytest --hypothesis-profile fuzz $$(grep -rl --include='test_*.py' '@given' tests)

fuzz-images: setup
	@$(RUN) -m tests.benchmarks.fuzz_images

kill-flow: setup
	@$(RUN) -m tests.benchmarks.kill_flow

fuzz-endpoint: setup
	@$(RUN) -m tests.benchmarks.fuzz_endpoint --run-dir $(RUNS)/pocket $(if $(REQUESTS),--requests $(REQUESTS))

# The store is made first by us, under a lock: MLflow's own way breaks it when a run starts at the same moment.
ui: setup
	@mkdir -p $(RUNS) && cd $(RUNS) && MLFLOW_TRACKING_URI= PYTHONPATH=$(CURDIR) python -P -m infra.tracking store >/dev/null
	@cd $(RUNS) && MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false exec python -P -m mlflow ui \
	  --workers 1 --host 127.0.0.1 --port $(UI_PORT) --allowed-hosts 'localhost:*,127.0.0.1:*' \
	  --backend-store-uri sqlite:///mlflow.db

up: setup
	@$(RUN) -m serve.app pocket --run-dir $(RUNS)/pocket --wait

pocket-models: setup
	@$(RUN) -m train.pocket.models
