"""Hostile requests at a real endpoint with real engines: what gets no answer, or a wrong one, is a fault.

`python -m tests.benchmarks.fuzz_endpoint [--requests N] [--run-dir DIR]` (`make fuzz-endpoint`): N requests, 5,000 by
default, at the last demo's models, for an hour at most. Prints a table last, writes build/bench/fuzz_endpoint.json, and
exits non-zero when one was answered with a 500, with its own content or not at all, when a process of the endpoint
ended, something was fetched, a log holds a prompt, memory grew, or the models answer otherwise than before.
"""

import argparse
import asyncio
import json
import re
import socket
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tests.benchmarks.hostile_requests import CANARY, QUESTION, Hostile, text
from tests.benchmarks.served import PROJECT, Served, serving

NUM_REQUESTS = 5_000
AT_ONCE = 16
_TIMEOUT_S = 60.0
_LONGEST_S = 3600.0
_MORE_MEMORY_BYTES = 400 << 20
_WARM_UP = 500
_BUSY = 503
_LONG_BASE64 = re.compile(rb'base64,[^"]{40,}')
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Trap:
    """A server on loopback that counts connections to it, and never answers."""

    def __init__(self) -> None:
        self.caught = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}/{CANARY}.png"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            self._socket.accept()
            self.caught += 1


class Findings:
    """Statuses of the answers, and faults of the endpoint."""

    def __init__(self) -> None:
        self.statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.faults: list[str] = []

    def count(self, name: str, sent: bytes, answer: bytes | None) -> None:
        """One request's end. answer: None when it did not end."""
        found = _STATUS.match(answer or b"")
        status = found[1].decode() if found else "hang" if answer is None else "closed"
        self.statuses[name][status] += 1
        body = (answer or b"").partition(b"\r\n\r\n")[2]
        if status == "hang" or (status.startswith("5") and status not in ("503", "504")):
            self.faults.append(f"{name}: {status}: {_shown(sent)}")
        if status.startswith(("4", "5")) and (CANARY.encode() in _without_names(body) or b"base64,iVBOR" in body):
            self.faults.append(f"{name}: the error repeats the request: {body[:300]!r}")
        if len(body) > 2000 and status.startswith(("4", "5")):
            self.faults.append(f"{name}: an error of {len(body)} bytes")
        if name == "sound" and status != "200":
            self.faults.append(f"{name}: {status}: {body[:300]!r}")


def _without_names(body: bytes) -> bytes:
    """An error without the name of the field or model that it is about, which it says, in 80 characters at most."""
    return re.sub(rb"(?:Field|named|is not) '[^']{0,90}'", b"", body)


def _shown(sent: bytes) -> str:
    head, _, body = sent.partition(b"\r\n\r\n")
    return f"{head[:200]!r} {_LONG_BASE64.sub(b'base64,...', body)[:600]!r}"


async def attack(hostile: Hostile, port: int, num_requests: int, findings: Findings) -> None:
    """Send requests, some at a time, and count what comes back."""
    started, left = time.monotonic(), iter(range(num_requests))

    async def client() -> None:
        for number in left:
            if time.monotonic() - started > _LONGEST_S:
                return
            name, sent = next(hostile)
            findings.count(name, sent, await exchange(port, sent, leaves=name == "half"))
            if number % 250 == 0:
                print(f"fuzz: {number}/{num_requests}, faults {len(findings.faults)}", flush=True)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))


async def exchange(port: int, sent: bytes, *, leaves: bool = False) -> bytes | None:
    """The answer to these bytes; empty when there is none, None when the connection stays open without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            writer.write(sent)
            if leaves:
                await asyncio.sleep(0.05)
                return b""
            await writer.drain()
            return await reader.read()
    except TimeoutError:
        return None
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def greedy_answers(hostile: Hostile, port: int, models: list[str]) -> dict[str, Any]:
    """Texts and logprobs of every model to some images, one request at a time."""
    answers = {}
    for model in models:
        for number, image in enumerate(hostile.some_images()):
            content = [Hostile.image(image), text(QUESTION)]
            body = {
                "model": model,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": 16,
                "temperature": 0.0,
                "logprobs": True,
                "ignore_eos": True,
            }
            answer = await exchange(port, hostile.post(body))
            choice = json.loads((answer or b"").partition(b"\r\n\r\n")[2])["choices"][0]
            tokens = [(token["token"], token["logprob"]) for token in choice["logprobs"]["content"]]
            answers[f"{model} {number}"] = [choice["message"]["content"], tokens]
    return answers


async def models_of(hostile: Hostile, port: int) -> list[str]:
    """The names of all models."""
    answer = await exchange(port, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return [card["id"] for card in json.loads((answer or b"").partition(b"\r\n\r\n")[2])["data"]]


def leaks(served: Served) -> list[str]:
    """Files of logs, of Ray and of the command, that hold what was asked."""
    folders = {Path(file.path).parent for process in served.processes() for file in process.open_files()}
    files = {path for folder in folders if "log" in str(folder) for path in folder.rglob("*") if path.is_file()}
    return sorted(str(path) for path in files if CANARY.encode() in path.read_bytes())


def main(num_requests: int, run_dir: Path) -> None:
    """Start the endpoint, attack it, and compare it with what it was."""
    trap, findings = Trap(), Findings()
    folder = PROJECT / "build/bench"
    with serving(run_dir, log=folder / "fuzz_endpoint.log") as served:
        hostile = Hostile(0, served.port, trap.address, [])
        hostile.models = asyncio.run(models_of(hostile, served.port))
        before, processes = asyncio.run(greedy_answers(hostile, served.port, hostile.models)), served.models_processes()
        asyncio.run(attack(hostile, served.port, min(_WARM_UP, num_requests), findings))
        memory_before = served.memory_bytes()
        asyncio.run(attack(hostile, served.port, num_requests - min(_WARM_UP, num_requests), findings))
        after = asyncio.run(greedy_answers(hostile, served.port, hostile.models))
        memory_after = served.memory_bytes()
        if ended := sorted(set(processes.items()) - set(served.models_processes().items())):
            findings.faults.append(f"ended: {ended}")
        findings.faults += [f"answers otherwise than before: {name}" for name in before if before[name] != after[name]]
        findings.faults += [f"holds what was asked: {file}" for file in leaks(served)]
        if CANARY in (folder / "fuzz_endpoint.log").read_text():
            findings.faults.append("the command printed what was asked")
    if trap.caught:
        findings.faults.append(f"fetched something {trap.caught} times")
    if memory_after - memory_before > _MORE_MEMORY_BYTES:
        findings.faults.append(f"memory grew by {(memory_after - memory_before) >> 20} MiB")
    figures = {
        "statuses": {name: dict(sorted(counts.items())) for name, counts in sorted(findings.statuses.items())},
        "in_all": dict(sum(findings.statuses.values(), Counter())),
        "memory_gib": [round(memory_before / 2**30, 2), round(memory_after / 2**30, 2)],
        "fetched": trap.caught,
        "faults": findings.faults,
    }
    (folder / "fuzz_endpoint.json").write_text(json.dumps(figures, indent=2))
    for name, counts in figures["statuses"].items():
        print(f"{name:>24}  {counts}")
    print(f"{'in all':>24}  {figures['in_all']}, memory in GiB {figures['memory_gib']}, fetched {trap.caught}")
    for fault in findings.faults[:40]:
        print(f"fault: {fault}")
    sys.exit(bool(findings.faults))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fuzz_endpoint")
    parser.add_argument("--requests", type=int, default=NUM_REQUESTS)
    parser.add_argument("--run-dir", type=Path, default=PROJECT / "runs/pocket")
    options = parser.parse_args()
    main(options.requests, options.run_dir.absolute())
