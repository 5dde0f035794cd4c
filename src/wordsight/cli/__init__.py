"""The command line: arguments <-> library, nothing else."""
