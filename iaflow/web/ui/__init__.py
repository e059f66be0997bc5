"""How pages look: the templates and their environment, and the files that browsers fetch."""
