"""The wheel alone, installed anywhere, is the whole service."""

import os
import sqlite3
import subprocess
import sys
import sysconfig
import venv
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as `make wheel` builds it. Nothing is fetched."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, cwd=ROOT)
    [built] = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the wheel in it, and what it depends on from here."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, with_pip=False, symlinks=True)
    python = directory / "bin" / "python"
    offline = ("--no-index", "--no-deps", "--disable-pip-version-check", "--quiet")
    run(sys.executable, "-m", "pip", "--python", python, "install", *offline, wheel)
    [packages] = directory.glob("lib/python*/site-packages")
    # Directories named in a .pth file are searched, but .pth files in them are not read: so an
    # editable install of ours, where the dependencies are, stays out of it.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return directory / "bin"


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """What a command writes; it must succeed."""
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("ENTITLEMENTS_", "PYTHON"))
    }
    done = subprocess.run(
        command, cwd=cwd, env=inherited | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_both_packages_the_migrations_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "entitlements",
        "graphql_schema",
    }
    wanted = {"env.py", "script.py.mako"} | {
        f"versions/{path.name}" for path in (ROOT / "alembic" / "versions").glob("*.py")
    }
    assert len(wanted) > 2
    assert {f"entitlements/_migrations/{name}" for name in wanted} <= names
    portal = ROOT / "entitlements" / "server" / "portal"
    pages = {
        file.relative_to(ROOT).as_posix()
        for folder in ("static", "documents")
        for file in (portal / folder).rglob("*.*")
    }
    assert len(pages) > 10
    assert names >= {
        "entitlements/py.typed",
        "graphql_schema/py.typed",
        "graphql_schema/schema.graphql",
        "entitlements/catalog/examples/workspace.yaml",
        "entitlements/catalog/examples/workspace-2025.yaml",
        "entitlements/catalog/examples/catalog.schema.json",
        *pages,
    }
    assert not [name for name in names if name.endswith(".pyc")]
    assert len([name for name in names if name.endswith("licenses/LICENSE")]) == 1


def test_an_installed_wheel_migrates_a_database_and_offers_the_demo(
    installed: Path, tmp_path: Path
) -> None:
    python = installed / "python"
    where = run(python, "-c", "import entitlements; print(entitlements.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(installed.parent)
    settings = {
        "ENTITLEMENTS_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'entitlements.db'}",
        "ENTITLEMENTS_STRIPE_API_KEY": "rk_test_x",
        "ENTITLEMENTS_ADMIN_KEY": "ent_admin_for_tests_only",
    }
    for _ in range(2):  # the second time there is nothing to do
        run(python, "-m", "entitlements", "migrate", cwd=tmp_path, **settings)
    with closing(sqlite3.connect(tmp_path / "entitlements.db")) as database:
        assert database.execute("SELECT mode FROM installation").fetchall() == [("live",)]
        assert len(database.execute("SELECT version_num FROM alembic_version").fetchall()) == 1
    assert "--empty" in run(installed / "entitlements", "demo", "--help", cwd=tmp_path)
    assert "no mistakes" in run(
        installed / "entitlements",
        "catalog",
        "check",
        Path(where.strip()).parent / "catalog" / "examples" / "workspace.yaml",
        cwd=tmp_path,
    )
