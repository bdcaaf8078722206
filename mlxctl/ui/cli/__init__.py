"""The terminal: typer declarations and rich rendering."""
