"""Random faults against real workers and real services, and an oracle that knows what CLEAN must hold after them."""
