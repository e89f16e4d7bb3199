"""cbor2's extension without its package, whose `__init__` imports `typing` for two annotations.

`typing` and what it needs (`re`, `contextlib`, `functools`) take 11 of the 39 ms of `dynctl get`,
more than all of our own modules. So the extension is imported under a package of that name that has
a path and nothing else. Whoever imports `cbor2` itself later gets the real one, with the same
extension in it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def _extension() -> ModuleType:
    if "cbor2" not in sys.modules:
        bare = type(sys)("cbor2")
        bare.__path__ = [f"{place}/cbor2" for place in sys.path]
        sys.modules["cbor2"] = bare
        try:
            import cbor2._cbor2  # type: ignore[import-not-found]

            return sys.modules["cbor2._cbor2"]
        except ImportError:
            pass  # not beside us as files: the usual way, then
        finally:
            del sys.modules["cbor2"]
    import cbor2

    return cbor2


if TYPE_CHECKING:
    from cbor2 import CBORDecodeError, dumps, loads
else:
    _cbor2 = _extension()
    CBORDecodeError, dumps, loads = _cbor2.CBORDecodeError, _cbor2.dumps, _cbor2.loads

__all__ = ["CBORDecodeError", "dumps", "loads"]
