"""A checker for the part of JSON Schema that `dynctl schema` writes."""

from __future__ import annotations

from typing import Any

_KINDS: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}
_KNOWN = {
    *("$schema", "$ref", "$defs", "title", "description", "default"),
    *("type", "properties", "required", "items", "anyOf"),
}


def problems(value: object, schema: dict[str, Any], *, root: dict[str, Any] | None = None) -> str:
    """Empty if the value is of that schema; else the first place where it is not. A field that the
    schema does not name is a problem too: what is printed must be described."""
    root = root or schema
    if strange := set(schema) - _KNOWN:
        return f"unknown words in the schema: {strange}"
    if "$ref" in schema:
        return problems(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root=root)
    if "anyOf" in schema:
        tried = [problems(value, option, root=root) for option in schema["anyOf"]]
        return "" if "" in tried else " and ".join(tried)
    kind = _KINDS[schema["type"]]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return f"{value!r} is not {schema['type']}"
    if isinstance(value, list):
        found = (problems(item, schema["items"], root=root) for item in value)
        return next(filter(None, found), "")
    if isinstance(value, dict):
        if missing := set(schema.get("required", ())) - set(value):
            return f"missing: {missing}"
        if strange := set(value) - set(schema["properties"]):
            return f"not described: {strange}"
        for name, item in value.items():
            if told := problems(item, schema["properties"][name], root=root):
                return f"{name}: {told}"
    return ""
