"""The door: an OpenAI-compatible HTTP server in front of one engine process that stays up."""
