refit_run_test(models run_models.py)
