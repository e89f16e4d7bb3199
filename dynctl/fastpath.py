"""The table parser: splits the words of `get`, `put` and `delete` without loading Typer.

It takes what a script writes (`--flag`, `--option word`, `--option=word`, `-o word`, `--`) and
leaves everything else (help, clusters of short options, unknown options, missing or surplus words)
to Typer by returning None: where it does accept, Typer accepts with the same values.
"""

from __future__ import annotations

from dynctl.options import FLAG, LIST, VERBS, Given, Verb


def parse(verb: Verb, argv: list[str]) -> Given | None:
    """The words after the verb by name; None if Typer shall look at them."""
    by_flag = {flag: option for option in verb.options for flag in option.flags}
    given: Given = {option.name: False if option.kind == FLAG else None for option in verb.options}
    places: list[str] = []
    place = 0
    while place < len(argv):
        text = argv[place]
        place += 1
        if text == "--":
            places += argv[place:]
            break
        if not text.startswith("-") or text == "-":
            places.append(text)
            continue
        flag, equals, value = text.partition("=") if text.startswith("--") else (text, "", "")
        option = by_flag.get(flag)
        if option is None or (option.kind == FLAG and equals):
            return None
        if option.kind == FLAG:
            given[option.name] = True
            continue
        if not equals:
            if place == len(argv):
                return None
            value = argv[place]
            place += 1
        if option.kind == LIST:
            listed = given[option.name]
            given[option.name] = [*listed, value] if isinstance(listed, list) else [value]
        else:
            given[option.name] = value
    return _place(verb, places, given)


def _place(verb: Verb, places: list[str], given: Given) -> Given | None:
    required = sum(argument.required for argument in verb.arguments)
    if not required <= len(places) <= len(verb.arguments):
        return None
    for number, argument in enumerate(verb.arguments):
        given[argument.name] = places[number] if number < len(places) else None
    return given


def run(argv: list[str]) -> int | None:
    """Runs a verb of the table; None if this command line is for Typer."""
    verb = VERBS.get(argv[0]) if argv else None
    given = parse(verb, argv[1:]) if verb is not None else None
    if verb is None or given is None:
        return None
    from dynctl import data

    return data.run(verb.name, given)
