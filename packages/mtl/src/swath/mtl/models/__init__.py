"""The model of RSCoTr: what its tasks share, and a head for each."""
