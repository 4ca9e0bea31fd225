"""What runs: the shim, the lifecycle of a worker, its startup stages, adoption and logs."""
