"""Prompt-debugging sessions: what was tried, what came out, as a page in the browser and as one file."""
