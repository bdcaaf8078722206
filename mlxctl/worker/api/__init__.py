"""The OpenAI API over HTTP: what comes in is checked here, what goes out gets its shape here."""
