"""The set-up, with real pips and environments, and an index that is a folder; no network."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from infra.environment import setup

# In the place of uv: writes down what it is told, and fails.
_BROKEN_UV = f"""#!{sys.executable}
import json, os, pathlib, sys
pathlib.Path(os.environ["TOLD"]).write_text(json.dumps([sys.argv[1:], dict(os.environ)]))
sys.exit("uv: no such thing here")
"""


def _wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    whole = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in whole.items():
            member = zipfile.ZipInfo(path)
            member.external_attr = 0o100755 << 16
            wheel.writestr(member, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*whole, f"{info}/RECORD"]))


def _uv_wheel(folder: Path, script: str) -> None:
    name, _, version = setup._UV.partition("==")
    _wheel(folder, name, version, {f"{name}-{version}.data/scripts/uv": script})


@pytest.fixture
def uv_wheel(tmp_path: Path) -> None:
    """The real uv, from where this machine's pip finds it, in the index to be."""
    fetch = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary=:all:", "--retries", "0"]
    if subprocess.run([*fetch, "-d", str(tmp_path / "links"), setup._UV], capture_output=True, check=False).returncode:
        pytest.skip(f"{setup._UV} cannot be fetched here")


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose one pinned package is in an index that is a folder; pip knows of that by its own settings."""
    links = tmp_path / "links"
    _wheel(links, "demo", "1.0", {"demo.py": "build = 'plain'\n"})
    _wheel(links, "demo", "1.0+cpu", {"demo.py": "build = 'cpu'\n"})
    (tmp_path / "constraints-gpu.txt").write_text("demo==1.0+cpu\n")
    (tmp_path / f"{setup.HOOK}.py").write_text("")
    monkeypatch.setattr(setup, "HERE", tmp_path)
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # of this machine's own settings, none but the global file's
    (tmp_path / "pip.conf").write_text(f"[global]\nno-index = yes\ntimeout = 7.5\n[install]\nfind-links = {links}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    return links


def _build(folder: Path) -> str:
    python = folder / "bin" / "python"
    return subprocess.check_output([python, "-c", "import demo; print(demo.build)"], text=True).strip()


@pytest.mark.slow
def test_a_broken_uv_is_one_line_and_then_pip_installs(
    pinned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _uv_wheel(pinned, _BROKEN_UV)
    monkeypatch.setenv("TOLD", str(tmp_path / "told.json"))

    setup.main("gpu", tmp_path / "env")

    first, second, last = capfd.readouterr().out.splitlines()
    assert second == "set-up: not by uv (uv: no such thing here): pip installs, which takes longer"
    assert (first.startswith("set-up: installing"), last) == (True, "set-up: done")
    assert _build(tmp_path / "env") == "cpu"
    arguments, environment = json.loads((tmp_path / "told.json").read_text())
    assert "--no-index" in arguments
    assert (environment["UV_FIND_LINKS"], environment["UV_HTTP_TIMEOUT"]) == (str(pinned), "8")
    assert not (tmp_path / "env" / setup._SCRATCH).exists()
    setup.main("gpu", tmp_path / "env")
    assert capfd.readouterr().out == ""  # nothing changed


@pytest.mark.slow
def test_where_uv_cannot_be_had_pip_installs(pinned: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    setup.main("gpu", tmp_path / "env")

    assert f"set-up: not by uv (pip does not find {setup._UV}: ERROR: " in capfd.readouterr().out
    assert _build(tmp_path / "env") == "cpu"


@pytest.mark.slow
def test_what_neither_can_install_names_the_step_and_what_to_type(pinned: Path, tmp_path: Path) -> None:
    _uv_wheel(pinned, "no program of this machine")
    (tmp_path / "constraints-gpu.txt").write_text("demo==2.0\n")

    with pytest.raises(SystemExit, match=r"this step failed: .*constraints-gpu.txt\nset-up: Check the network"):
        setup.main("gpu", tmp_path / "env")

    assert not (tmp_path / "env" / setup._STAMP).exists()


@pytest.mark.slow
def test_uv_itself_installs_the_local_version_and_compiles_it(
    uv_wheel: None, pinned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    setup.main("gpu", tmp_path / "env")

    assert "not by uv" not in capfd.readouterr().out
    assert _build(tmp_path / "env") == "cpu"
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    assert list((site / "__pycache__").glob("demo.*.pyc"))
    assert {path.name for path in site.glob("*.dist-info")} >= {"demo-1.0+cpu.dist-info"}
    assert not list(site.glob("uv*"))


@pytest.mark.parametrize(
    ("of_pip", "arguments", "variables"),
    [
        ({"index-url": "https://me:pw@mirror/simple"}, [], {"UV_DEFAULT_INDEX": "https://me:pw@mirror/simple"}),
        ({"extra-index-url": "\nhttps://a/s\nhttps://b/s"}, [], {"UV_EXTRA_INDEX_URL": "https://a/s https://b/s"}),
        ({"find-links": "/wheels https://c/torch"}, [], {"UV_FIND_LINKS": "/wheels,https://c/torch"}),
        ({"find-links": "~/wheels"}, [], {"UV_FIND_LINKS": str(Path("~/wheels").expanduser())}),
        ({"cert": "/ca.pem", "client-cert": "/me.pem"}, [], {"SSL_CERT_FILE": "/ca.pem", "SSL_CLIENT_CERT": "/me.pem"}),
        ({"trusted-host": "a b:8080"}, [], {"UV_INSECURE_HOST": "a b:8080"}),
        ({"timeout": "15", "retries": "2"}, [], {"UV_HTTP_TIMEOUT": "15", "UV_HTTP_RETRIES": "2"}),
        ({"proxy": "http://p:3128"}, [], dict.fromkeys(setup._PROXY_VARIABLES, "http://p:3128")),
        ({"constraint": "/c.txt"}, [], {"UV_CONSTRAINT": "/c.txt"}),
        ({"no-index": "on", "only-binary": ":all:"}, ["--no-index", "--only-binary=:all:"], {}),
        ({"no-binary": "a,b"}, ["--no-binary=a", "--no-binary=b"], {}),
        ({"no-index": "false", "user": "0", "no-cache-dir": "true", "disable-pip-version-check": "1"}, [], {}),
    ],
)
def test_uv_is_told_what_pip_is_set_to(of_pip: dict[str, str], arguments: list[str], variables: dict[str, str]) -> None:
    assert setup.settings_of_uv(of_pip) == (arguments, variables)


@pytest.mark.parametrize("name", ["require-hashes", "user", "target", "platform", "keyring-provider"])
def test_a_setting_that_uv_does_not_have_is_left_to_pip(name: str) -> None:
    with pytest.raises(setup.UvCannotError, match=f"pip's {name}"):
        setup.settings_of_uv({name: "yes"})


def test_pips_settings_count_in_pips_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.conf").write_text(
        "[install]\nindex-url = https://install/s\n[global]\nindex-url = https://global/s\nproxy = http://p:1\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_PROXY", "http://variable:2")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "9")
    monkeypatch.delenv("PIP_CERT", raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/company.pem")

    settings = setup._settings_of_pip(Path(sys.executable))

    expected = {"index-url": "https://install/s", "proxy": "http://variable:2", "timeout": "9"}
    assert {name: settings[name] for name in expected} == expected
    assert settings.get("cert")  # from a variable of requests, or from a file of this machine's pip
