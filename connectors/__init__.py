"""The outside world, except our HTTP API: one port per kind of system, real adapters behind it."""
