"""The report: all that a run folder holds, on one HTML page that needs nothing else."""
