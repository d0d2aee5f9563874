"""Folders with inputs or runs, and commands that are refused or accepted."""

import contextlib
import pathlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.command_lines import TINY, write_inputs
from helpers.commands import run


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
  """A folder with texts, good and bad."""
  folder = tmp_path / 'inputs'
  write_inputs(folder)
  return folder


@pytest.fixture
def here(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
  """An empty current directory beside the inputs."""
  assert inputs.is_dir()
  folder = tmp_path / 'here'
  folder.mkdir()
  monkeypatch.chdir(folder)
  return folder


@pytest.fixture(scope='module')
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The working directory of a run that is done; not to be changed."""
  folder = tmp_path_factory.mktemp('done')
  write_inputs(folder / 'inputs')
  (folder / 'here').mkdir()
  argv = ('--task.path=../inputs/good.txt', '--seeds=1', '--ablate=scale=none')
  with contextlib.chdir(folder / 'here'):
    assert run(*TINY, *argv, '--workdir=taken') == 0
  return folder / 'here/taken'


@pytest.fixture
def taken(done: Path, here: Path) -> Path:
  """A copy of it, in the current directory."""
  return shutil.copytree(done, here / 'taken')


@pytest.fixture
def empty_folder(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """An empty current directory, in which nothing runs."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('experiments.run.engine.run_plan', lambda *_: 0)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Any:
  """Returns a function that gives the one line of a refusal."""

  def line(*argv: str) -> str:
    code, (out, err) = run(*argv), capsys.readouterr()
    assert code == 2, (out, err)
    assert err.startswith('launch.py: ')
    assert len(err.splitlines()) == 1, err
    assert not list(pathlib.Path().iterdir())
    return err

  return line


@pytest.fixture
def accepted(capsys: pytest.CaptureFixture[str]) -> Any:
  """Returns a function that gives what a plan says."""

  def said(*argv: str) -> str:
    code, (out, err) = run(*argv, '--plan'), capsys.readouterr()
    assert code == 0, err
    return out

  return said
