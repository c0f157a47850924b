"""The operators' commands: ``python -m etl_tasks``. They ask the pipeline and print; nothing is decided here."""
