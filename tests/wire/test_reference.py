"""The wire never takes back what it has said: codes and positions are held by a lock file."""

from pathlib import Path

from dynagent.core.messages import catalogue
from dynagent.errors import BY_CODE, DynagentError
from dynagent.wire import reference
from dynagent.wire.registry import REGISTRY, SCHEMAS

LOCK = Path(__file__).parent / "lock.txt"


def test_every_code_and_position_ever_used_still_means_the_same() -> None:
    """A new line may be added to the lock (`reference.lock()`); none may change or go."""
    present = set(reference.lock().splitlines())
    locked = LOCK.read_text(encoding="utf-8").splitlines()
    assert [line for line in locked if line not in present] == []


def test_the_lock_knows_everything_on_the_wire() -> None:
    assert LOCK.read_text(encoding="utf-8") == reference.lock()


def test_no_two_messages_share_a_code() -> None:
    assert len(REGISTRY) == len(catalogue())
    assert min(REGISTRY) > 0 and max(REGISTRY) < 256


def test_no_two_errors_share_a_code() -> None:
    sendable = [cls for cls in _tree(DynagentError) if cls.code]
    assert len(sendable) == len(BY_CODE)


def test_every_field_names_a_schema() -> None:
    names = {name for cls in catalogue() for name in cls.schema_names}
    assert names <= set(SCHEMAS)


def test_the_protocol_page_has_every_message_field_and_error() -> None:
    page = reference.protocol()
    for row in REGISTRY.values():
        assert f"### {row.code} {row.cls.__name__}\n" in page
        for name, _schema in row.schemas:
            assert f" {name} |" in page
    for code, cls in BY_CODE.items():
        assert f"| {code} | {cls.__name__} |" in page


def test_check_finds_a_stale_page(tmp_path: Path) -> None:
    assert reference.main([str(tmp_path)]) == 0
    assert reference.main(["--check", str(tmp_path)]) == 0
    (tmp_path / "protocol.md").write_text("old", encoding="utf-8")
    assert reference.main(["--check", str(tmp_path)]) == 1


def _tree(root: type[DynagentError]) -> list[type[DynagentError]]:
    return [root, *(cls for child in root.__subclasses__() for cls in _tree(child))]
