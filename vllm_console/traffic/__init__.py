"""Open-loop traffic: arrivals and lengths from a trace or a Poisson process."""
