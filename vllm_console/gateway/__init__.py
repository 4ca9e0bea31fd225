"""The OpenAI endpoint of the fleet: one process that routes, admits, counts, and knows the fleet."""
