"""Log lines: one event a line, whatever the fields hold."""

import json
import logging

import pytest

from dynagent.obs import log as obs


@pytest.fixture(autouse=True)
def _restore() -> object:
    logger = logging.getLogger("dynagent")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def test_logfmt_quotes_what_would_break_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    obs.setup(level="info", form="logfmt")
    obs.log(logging.INFO, "link.refused", reason='says "no"\nand goes', key=b"\xff\x00", n=3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("time=20")
    assert line.endswith(
        r'level=info event=link.refused reason="says \"no\"\nand goes" key=ff00 n=3'
    )


def test_json_is_one_document_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    obs.setup(level="info", form="json")
    obs.log(logging.WARNING, "peer.down", peer="n2", reason="line\nbreak")
    (line,) = capsys.readouterr().err.splitlines()
    document = json.loads(line)
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "warning",
        "event": "peer.down",
        "peer": "n2",
        "reason": "line\nbreak",
    }


def test_events_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    obs.setup(level="warning", form="logfmt")
    obs.log(logging.INFO, "agent.ready")
    assert capsys.readouterr().err == ""
