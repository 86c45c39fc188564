"""What scripts/matrix.py is made of: matrix files, jobs, results, baselines, plots and the page."""
