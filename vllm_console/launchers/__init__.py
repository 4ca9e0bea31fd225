"""Where workers run: each launcher implements `workers.launch.Launcher`."""
