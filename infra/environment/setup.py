"""Sets up the environment of one profile, `cpu` or `gpu`: `python infra/environment/setup.py cpu .venv`.

Runs on a bare Python 3.11 with pip; uses the standard library only. A second run with nothing changed ends at once.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
HOOK = "torchvision_on_cpu"
PROFILES = ("cpu", "gpu")
_STAMP = ".set-up"


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
    _install(python, profile)
    if profile == "cpu":
        _make_torchvision_importable(python)
    stamp.write_text(wanted)
    print("set-up: done", flush=True)


def _install(python: Path, profile: str) -> None:
    # The constraints file is the whole resolved set, so nothing needs to be resolved: quicker, and never a surprise.
    _run(
        [str(python), "-m", "pip", "install", "-qq", "--no-deps", "-r", str(HERE / f"constraints-{profile}.txt")],
        "Check the network and the free disk (8 GB). The cpu profile needs torch's CPU build: if your index does not "
        "carry it, name PyTorch's CPU index in PIP_EXTRA_INDEX_URL. Then type the same command again",
    )


def _make_torchvision_importable(python: Path) -> None:
    """A CPU build of torchvision where pip finds one; else the CUDA build with an import hook (see the hook's file)."""
    version = _pinned("torchvision")
    cpu_build = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", f"torchvision=={version}+cpu"]
    if subprocess.run(cpu_build, capture_output=True, check=False).returncode != 0:
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
