"""Scrape, sample, window: what one worker's /metrics says, in one vocabulary."""
