"""One verb a file; each returns a `Result` and prints nothing."""
