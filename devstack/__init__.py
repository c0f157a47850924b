"""The development stack: real PostgreSQL, Redis, ClickHouse (two shards), HBase and Phoenix, without Docker.

`python -m devstack up` from a shell, `devstack.stack.Stack` from a test. Everything listens on the loopback interface,
keeps its state under `.devstack/` and is downloaded once into a cache outside the checkout.
"""
