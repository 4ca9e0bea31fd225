"""Where samples go: any window of any subject, and series for graphs."""
