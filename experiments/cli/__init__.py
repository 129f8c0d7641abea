"""What the commands share: flags, error messages, signals, sweeps."""
