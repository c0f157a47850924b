"""The composition root: the only place that puts adapters into the pipeline, from the settings in force."""

from etl_tasks.wiring.contexts import Wiring, wiring_factory

__all__ = ["Wiring", "wiring_factory"]
