"""One event schema for predictions and measurements: spans, traces, metrics, joins."""

from holmes.events.metrics import StepMetrics
from holmes.events.span import Span, Timeline

__all__ = ["Span", "StepMetrics", "Timeline"]
