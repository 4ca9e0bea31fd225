"""The control plane: the daemon, the snapshot it publishes, the control API and its client."""
