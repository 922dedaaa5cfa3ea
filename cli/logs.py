"""How processes of ours log: for people, or as JSON lines for a collector."""

import logging
import os
import sys


def configure(format_name: str = "") -> None:
    """Set up structlog for this process; `console` or `json`, by default what ORDERFLOW_LOG_FORMAT says."""
    import structlog

    chosen = format_name or os.environ.get("ORDERFLOW_LOG_FORMAT", "console")
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    renderer = structlog.processors.JSONRenderer() if chosen == "json" else structlog.dev.ConsoleRenderer(colors=colors)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
