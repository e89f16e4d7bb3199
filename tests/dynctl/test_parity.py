"""Both parsers read every command line alike: the property that lets a script take the short way
and a person the long one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dynctl import fastpath
from dynctl.declare import tabled
from dynctl.options import VERBS, Given, Verb

_SEEN: list[Given] = []


def _note(_verb: str, words: Given) -> int:
    _SEEN.append(words)
    return 0


_TYPER: dict[str, Any] = {name: tabled(verb, _note) for name, verb in VERBS.items()}

_FLAGS = sorted({flag for verb in VERBS.values() for o in verb.options for flag in o.flags})
# What argv can hold: no NUL; bytes that are not UTF-8 arrive as lone surrogates.
_TEXT = st.text(
    st.one_of(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
        st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]),
    ),
    max_size=6,
)
_WORD = st.one_of(
    st.sampled_from(_FLAGS),
    st.sampled_from(["-", "--", "", "k", "v", "@f", "-1", "--no-such", "-vr", "-r2", "--=", "-h"]),
    st.builds("{}={}".format, st.sampled_from(_FLAGS), _TEXT),
    _TEXT,
)


def _typer_reads(verb: Verb, argv: list[str]) -> Given:
    _SEEN.clear()
    _TYPER[verb.name].main(args=list(argv), prog_name="dynctl", standalone_mode=False)
    (seen,) = _SEEN
    return seen


@pytest.mark.parametrize("name", VERBS)
@settings(max_examples=400, deadline=None)
@given(argv=st.lists(_WORD, max_size=7))
@example(argv=["k", "--endpoint", "a", "--endpoint=b", "--timeout=5s", "-v"])
@example(argv=["--", "-k"])
@example(argv=["k", "--endpoint", "--"])
@example(argv=["\udcff", "--timeout", ""])
def test_what_the_table_parser_accepts_typer_reads_alike(name: str, argv: list[str]) -> None:
    verb = VERBS[name]
    short = fastpath.parse(verb, argv)
    if short is not None:
        assert _typer_reads(verb, argv) == short


@pytest.mark.parametrize(
    "line",
    [
        "get k",
        "get k --out f -r 1 --strict --timeout 2s --endpoint h:1 --endpoint=h:2 -v",
        "get k --all -o json",
        "get k --trace",
        "put k v",
        "put k -",
        "put k @f --context C -w 2 --op-id 00 --print-context",
        "put k --value -x",
        "put -- -k -v",
        "delete k --context=C",
    ],
)
def test_what_scripts_write_takes_the_short_way(line: str) -> None:
    name, *argv = line.split()
    assert fastpath.parse(VERBS[name], argv) is not None


@pytest.mark.parametrize(
    "line", ["get", "get k k", "get -h", "get k --help", "put k --all", "put k v -w", "get -r2 k"]
)
def test_what_is_odd_is_left_to_typer(line: str) -> None:
    name, *argv = line.split()
    assert fastpath.parse(VERBS[name], argv) is None
