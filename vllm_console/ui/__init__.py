"""The screen: draws snapshots, sends commands, knows nothing else."""
