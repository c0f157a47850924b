"""One module a step: plan, extract and load, publish, finalize, sweep. Adapters come in through ``ports``."""
