"""Scripts that an engine environment's own Python runs; they import nothing of the console."""
