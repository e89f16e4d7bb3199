"""The verbs that load Typer: one file a noun, imported only when its verb is called."""
