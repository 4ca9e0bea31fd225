"""The OpenAI endpoint of the fleet: a process that routes, admits, counts, and knows the fleet."""
