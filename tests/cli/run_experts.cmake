refit_run_test(experts run_experts.py)
