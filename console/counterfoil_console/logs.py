"""Log lines through structlog: readable on a terminal, JSON for a collector."""

import logging
import sys
from collections.abc import Mapping
from typing import Any, Literal

import structlog

from counterfoil_console.hostile import shown


def set_up_logs(form: Literal["console", "json"], level: int = logging.INFO) -> None:
    """Send every logger of this process to stderr in one form; librdkafka's own at warning and above."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.types.Processor] = (
        [structlog.processors.JSONRenderer()]
        if form == "json"
        else [_escape, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *last,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("counterfoil.kafka").setLevel(logging.WARNING)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)


def _escape(
    _logger: logging.Logger, _method: str, line: structlog.types.EventDict
) -> Mapping[str, Any]:  # structlog's signature of a processor
    """What a log line quotes is hostile text, too; only the lines of a traceback stay lines."""
    for name, value in line.items():
        if isinstance(value, str):
            line[name] = "\n".join(map(shown, value.split("\n"))) if name == "exception" else shown(value)
    return line
