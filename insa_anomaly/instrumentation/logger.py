"""The log: structured lines on standard error, each with the action that it reports."""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import ParamSpec

import structlog
from prometheus_client import Counter

P = ParamSpec("P")


def set_up_logging(level: str = "INFO", form: str = "auto") -> None:
    """Send logs to standard error as `json` or `console`; `auto` picks `console` on a terminal."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Locals are not shown, because they may hold secrets.
    trace = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.ExceptionRenderer(trace), structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def log(level: int, action: str, message: str, **fields: object) -> None:
    """Log a line."""
    structlog.get_logger().log(level, message, action=action, **fields)


def fields(of: object, names: str) -> dict[str, object]:
    """Return attributes of an object, by their names."""
    return {name: getattr(of, name) for name in names.split()}


def logged(
    level: int, message: str, *counters: Counter, digits: int | None = None
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Log each call of a function: its name is the action, its arguments are the fields.

    Fractions are rounded to `digits`. Each call adds 1 to the counters; the body of the function
    counts the rest.
    """

    def decorate(function: Callable[P, None]) -> Callable[P, None]:
        parameters = signature(function)

        @wraps(function)
        def event(*args: P.args, **kwargs: P.kwargs) -> None:
            function(*args, **kwargs)
            for counter in counters:
                counter.inc()
            given = parameters.bind(*args, **kwargs).arguments
            rounded = {name: _rounded(value, digits) for name, value in given.items()}
            log(level, function.__name__, message, **rounded)

        return event

    return decorate


def _rounded(value: object, digits: int | None) -> object:
    return round(value, digits) if isinstance(value, float) and digits is not None else value
