"""Sets up the environment of one profile, `cpu` or `gpu`: `python infra/environment/setup.py cpu .venv`.

Runs on a bare Python 3.11 with pip; uses the standard library only. Packages are installed by uv, which is several
times as fast as pip, or by pip where uv cannot. A second run ends at once if nothing has changed.
"""

import ast
import hashlib
import math
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
HOOK = "torchvision_on_cpu"
PROFILES = ("cpu", "gpu")
_STAMP = ".set-up"
_SCRATCH = ".installing"
_LINE = 200
_UV = "uv==0.13.9"

# uv does not read pip's settings; these are its own variables for them. They are no arguments, which everybody on the
# machine can see: the address of an index may hold a password.
_VARIABLES_OF_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "timeout": "UV_HTTP_TIMEOUT",
    "retries": "UV_HTTP_RETRIES",
}
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
_OTHER_NAMES = {"default-timeout": "timeout", "pypi-url": "index-url"}
# Settings of pip that change nothing if every version is pinned and nothing is asked. With any other, pip installs.
_WITHOUT_EFFECT = """
    break-system-packages cache-dir compile config-file disable-pip-version-check exists-action log no-cache-dir
    no-color no-compile no-input no-python-version-warning no-warn-conflicts no-warn-script-location pre prefer-binary
    progress-bar quiet require-virtualenv root-user-action upgrade upgrade-strategy verbose
"""
_FALSE = ("", "0", "false", "f", "no", "n", "off")


class UvCannotError(Exception):
    """Why uv does not install here, in words for people."""


def main(profile: str, folder: Path) -> None:
    """Make the virtual environment `folder` hold exactly what the profile's constraints file pins."""
    if profile not in PROFILES:
        sys.exit(f"set-up: no profile {profile!r}. Known: {', '.join(PROFILES)}. Type: make setup PROFILE=cpu")
    if sys.version_info[:2] != (3, 11):
        here = sys.version.split()[0]
        sys.exit(f"set-up: this is Python {here}; the packages need 3.11. Type: make setup PYTHON=python3.11")
    wanted = _digest(profile)
    stamp = folder / _STAMP
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    python = folder / "bin" / "python"
    if not python.exists():
        _run(
            [sys.executable, "-m", "venv", str(folder)],
            "Install Python's venv, for example apt install python3-venv",
        )
    print(f"set-up: installing the {profile} profile into {folder} (minutes, some GB)", flush=True)
    with _scratch(folder) as scratch:
        install = _install(python, profile, scratch)
        if profile == "cpu":
            _make_torchvision_importable(python, install)
    stamp.write_text(wanted)
    print("set-up: done", flush=True)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for uv and what it downloads: in the environment, since from another disk it would have to copy."""
    scratch = folder / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)  # of a set-up that was killed
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Command:
    """A command that installs packages, and the environment that it runs in."""

    def __init__(self, words: list[str], environment: Mapping[str, str]) -> None:
        self.words, self.environment = words, environment

    def run(self, *what: str) -> str | None:
        """Install this in silence; returns what went wrong, in one line."""
        try:
            done = subprocess.run(
                [*self.words, *what],
                env=self.environment,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:  # made for another machine, or on a disk without the right to execute
            return str(error)
        said = " ".join(done.stderr.split()) or f"it ended with {done.returncode}"
        return textwrap.shorten(said, _LINE) if done.returncode else None


def _install(python: Path, profile: str, scratch: Path) -> _Command:
    """Install what the profile pins, by uv or else by pip; returns the command that worked."""
    # The constraints file is the whole resolved set, so nothing needs to be resolved: quicker, and never a surprise.
    pinned = ["-r", str(HERE / f"constraints-{profile}.txt")]
    try:
        uv = _uv(python, scratch)
        if trouble := uv.run(*pinned):
            raise UvCannotError(trouble)
        return uv
    except UvCannotError as reason:
        print(f"set-up: not by uv ({reason}): pip installs, which takes longer", flush=True)
    pip = _Command([str(python), "-m", "pip", "install", "-qq", "--no-deps"], os.environ)
    _run(
        [*pip.words, *pinned],
        "Check the network and the free disk (8 GB). The cpu profile needs torch's CPU build: if your index does not "
        "carry it, name PyTorch's CPU index in PIP_EXTRA_INDEX_URL. Then type the same command again",
    )
    return pip


def _uv(python: Path, scratch: Path) -> _Command:
    """uv, fetched by pip into the scratch folder, with pip's settings. Raises UvCannotError."""
    pip = _Command([str(python), "-m", "pip", "install", "-qq", "--no-deps", "--only-binary=:all:"], os.environ)
    if trouble := pip.run("--target", str(scratch / "uv"), _UV):
        raise UvCannotError(f"pip does not find {_UV}: {trouble}")
    arguments, variables = settings_of_uv(_settings_of_pip(python))
    # Of several indexes pip takes the best match, uv the first that has the package at all. Modules are compiled now,
    # as pip does it: an environment may be read-only later, or told to write no bytecode.
    words = [str(scratch / "uv" / "bin" / "uv"), "pip", "install", "--quiet", "--no-deps", "--compile-bytecode"]
    own = {"UV_CACHE_DIR": str(scratch / "cache"), "UV_COMPILE_BYTECODE_TIMEOUT": "600"}
    return _Command(
        [*words, "--index-strategy", "unsafe-best-match", "--python", str(python), *arguments],
        own | os.environ | variables,
    )


def _settings_of_pip(python: Path) -> dict[str, str]:
    """What pip's files and PIP_ variables set for an installation, each by its name on pip's command line."""
    listed = subprocess.run(
        [str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, errors="replace", check=False
    )
    if listed.returncode:
        raise UvCannotError("pip does not tell its settings")
    settings = {}
    for section in ("global.", "install.", ":env:."):  # as in pip, the later one counts
        for line in listed.stdout.splitlines():
            name, _, value = line.removeprefix(section).partition("=")
            if line.startswith(section):
                settings[_OTHER_NAMES.get(name, name)] = str(ast.literal_eval(value))
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")  # pip looks there too
    return {"cert": bundle} | settings if bundle else settings


def settings_of_uv(settings: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment variables by which uv does what these settings tell pip.

    Raises UvCannotError where uv has no such setting.
    """
    arguments: list[str] = []
    variables: dict[str, str] = {}
    for name, value in settings.items():
        words = value.split()
        if name == "no-index" and value.lower() not in _FALSE:
            arguments.append("--no-index")
        elif name in ("no-binary", "only-binary"):
            arguments += [f"--{name}={package}" for word in words for package in word.split(",")]
        elif name == "proxy":
            variables |= dict.fromkeys(_PROXY_VARIABLES, value)
        elif name == "find-links":
            variables[_VARIABLES_OF_UV[name]] = ",".join(_at_home(word) for word in words)
        elif name == "timeout":
            variables[_VARIABLES_OF_UV[name]] = str(math.ceil(float(value)))
        elif name in _VARIABLES_OF_UV:
            variables[_VARIABLES_OF_UV[name]] = " ".join(words)
        elif name not in _WITHOUT_EFFECT.split() and value.lower() not in _FALSE:
            raise UvCannotError(f"it has no setting for pip's {name}")
    return arguments, variables


def _at_home(place: str) -> str:
    return str(Path(place).expanduser()) if place.startswith("~") else place


def _make_torchvision_importable(python: Path, install: _Command) -> None:
    """A CPU build of torchvision where there is one; else the CUDA build with an import hook (see the hook's file)."""
    if install.run(f"torchvision=={_pinned('torchvision')}+cpu"):
        site = subprocess.check_output([str(python), "-c", "import site; print(site.getsitepackages()[0])"], text=True)
        shutil.copy(HERE / f"{HOOK}.py", site.strip())
        (Path(site.strip()) / f"{HOOK}.pth").write_text(f"import {HOOK}; {HOOK}.install()\n")
    _run(
        [str(python), "-c", "import torchvision"], "torchvision does not load; delete .venv and type the command again"
    )


def _pinned(package: str) -> str:
    lines = (HERE / "constraints-cpu.txt").read_text().splitlines()
    (version,) = [line.partition("==")[2] for line in lines if line.startswith(f"{package}==")]
    return version


def _digest(profile: str) -> str:
    files = (HERE / f"constraints-{profile}.txt", HERE / f"{HOOK}.py", Path(__file__))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _run(command: list[str], advice: str) -> None:
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(f"set-up: this step failed: {' '.join(command)}\nset-up: {advice}.")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
