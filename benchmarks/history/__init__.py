"""What keeping the past costs, and how fast it answers; beside Prometheus where there is one."""
