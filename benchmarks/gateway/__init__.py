"""What the gateway costs beside others, and what becomes of it under attack."""
