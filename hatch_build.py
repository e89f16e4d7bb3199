"""The build: where a C compiler is at hand, the node's hot path is compiled (decision 0024).

    pip install .                     a wheel with compiled modules; without a compiler, a plain one
    pip install -e .                  always plain: sources are there to be changed
    DYNCTL_PURE=1 pip install .       plain, whatever is at hand
    python hatch_build.py             compiles in this checkout, beside the sources
    python hatch_build.py --clean     removes that again

What is compiled, and by what: `[tool.hatch.build.targets.wheel.hooks.custom]` in pyproject.toml.
mypyc takes the sources as they are and keeps their semantics, and checks types at run time.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand, where only mypyc and setuptools are needed
    BuildHookInterface = object

ROOT = Path(__file__).resolve().parent
_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
_MAKES_PURE = "DYNCTL_PURE"


class CompiledModules(BuildHookInterface):  # type: ignore[misc]
    """Adds the compiled modules to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """`version`: "standard", or "editable"."""
        if version == "editable" or os.environ.get(_MAKES_PURE):
            return
        self._files = tempfile.mkdtemp()
        try:
            built = compile_modules(self.config, Path(self._files))
        except (Exception, SystemExit) as exc:  # whatever a compiler can be missing
            self.app.display_warning(f"not compiled, it runs as plain Python: {exc}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"] |= {str(path): name for name, path in built.items()}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if directory := getattr(self, "_files", None):
            shutil.rmtree(directory)


def compile_modules(config: dict[str, Any], directory: Path) -> dict[str, Path]:
    """Compiles into `directory`; {path within the wheel: the file}."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    found = {path for pattern in config["compiled"] for path in ROOT.glob(pattern)}
    found -= {ROOT / name for name in config["interpreted"]}
    sources = sorted(str(path.relative_to(ROOT)) for path in found)
    extensions = mypycify(
        ["--config-file=", "--ignore-missing-imports", *sources],
        target_dir=str(directory / "c"),
        group_name="dynagent",
        multi_file=True,
        debug_level="0",
    )
    if os.name == "posix":
        # Nobody else calls into it. A third of its relocations go, and 5 of the 7 ms that it takes
        # to load, which `dynctl get` pays for; calls within it need no table.
        for extension in extensions:
            extension.extra_compile_args.append("-fvisibility=hidden")
    distribution = Distribution({"name": "dynctl", "ext_modules": extensions})
    command = distribution.get_command_obj("build_ext")
    command.build_lib = str(directory / "lib")
    command.build_temp = str(directory / "temp")
    command.ensure_finalized()
    command.run()
    built = (directory / "lib").rglob(f"*{_SUFFIX}")
    return {str(path.relative_to(directory / "lib")): path for path in built}


def main() -> int:
    """In this checkout."""
    if sys.argv[1:] not in ([], ["--clean"]):
        print("usage: python hatch_build.py [--clean]", file=sys.stderr)
        return 2
    for path in (*ROOT.glob(f"*{_SUFFIX}"), *(ROOT / "dynagent").rglob(f"*{_SUFFIX}")):
        path.unlink()
    if sys.argv[1:] == ["--clean"]:
        return 0
    os.chdir(ROOT)
    with (ROOT / "pyproject.toml").open("rb") as file:
        targets = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]
    with tempfile.TemporaryDirectory() as directory:
        built = compile_modules(targets["wheel"]["hooks"]["custom"], Path(directory))
        for name, path in built.items():
            shutil.copy2(path, ROOT / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
