"""One event schema for predictions and measurements: spans, traces, metrics, verdicts."""

from holmes.events.span import Span, Timeline

__all__ = ["Span", "Timeline"]
