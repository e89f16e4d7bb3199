"""The generated pages are those of the program, whoever generates them and where."""

from __future__ import annotations

import re

import pytest

from dynagent.errors import BY_CODE
from dynctl import reference
from dynctl.__main__ import NOUNS
from dynctl.faults import LocalFailure, line
from tests.dynctl.conftest import Dynctl

FILES = reference.files()


def test_the_committed_pages_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check"]) == 0, capsys.readouterr().out


def test_pages_do_not_depend_on_terminal_locale_or_user(
    bare: Dynctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"COLUMNS": "30", "LC_ALL": "C", "HOME": "/x", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    assert reference.files() == FILES


def test_every_verb_has_help_an_example_and_told_options() -> None:
    for page in reference.pages():
        assert page.help, page.name
        assert page.example, page.name
        assert all(item.help for item in (*page.arguments, *page.options)), page.name
        assert f"dynctl {page.name}" in page.example, page.name


def test_every_exit_status_has_its_line() -> None:
    for cls in BY_CODE.values():
        assert f"| {cls.exit_status} | `{cls.__name__}` |" in FILES["docs/exit-status.md"]


def test_every_error_class_is_told_with_its_words() -> None:
    for cls in BY_CODE.values():
        assert line("get", cls("the cause")).startswith("dynctl: get: ")
    told = line("put", LocalFailure("first line\nsecond line"))
    assert told == "dynctl: put: first line second line"


def test_roff_has_no_line_that_is_a_request_by_accident() -> None:
    known = r"\.(TH|SH|SS|TP|PP|br|nf|fi|RS|RE|BR|\\\")"
    for name in ("man/dynctl.1", "man/dynagent.8", "man/dynagent.toml.5"):
        for text in FILES[name].splitlines():
            assert not text.startswith("'"), text
            if text.startswith("."):
                assert re.match(known, text), text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_ask_dynctl(bare: Dynctl, shell: str) -> None:
    script = bare("completion", shell).stdout.decode()
    assert f"_DYNCTL_COMPLETE=complete_{shell}" in script


def test_a_shell_completes_verbs_and_options(bare: Dynctl) -> None:
    bare.environment |= {
        "_DYNCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "dynctl ri",
        "COMP_CWORD": "1",
    }
    assert bare().stdout.split() == [b"ring"]
    bare.environment |= {"COMP_WORDS": "dynctl put --op", "COMP_CWORD": "2"}
    assert bare().stdout.split() == [b"--op-id"]
    bare.environment |= {"COMP_WORDS": "dynctl get -o j", "COMP_CWORD": "3"}
    assert bare().stdout.split() == [b"json", b"jsonl"]
    bare.environment |= {"COMP_WORDS": "dynctl bench ", "COMP_CWORD": "2"}
    assert bare().stdout.split() == [b"put", b"get", b"mixed"]


def test_error_lines_know_every_verb_of_two_words() -> None:
    assert set(NOUNS) == {page.name.split()[0] for page in reference.pages() if " " in page.name}
