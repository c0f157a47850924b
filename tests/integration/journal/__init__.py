"""The journal against a real PostgreSQL: every transition, every race."""
