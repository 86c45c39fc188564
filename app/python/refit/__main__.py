"""`python -m refit`: which refit this is, and what it can do."""

import platform

from refit import _refit

print(f"refit    {_refit.version()}")
print(f"module   {_refit.__file__}, Python {platform.python_version()}, interface {_refit.api_version()}")
print("memory   " + ("of CPUs, and of CUDA GPUs" if _refit.cuda else "of CPUs; GPUs need a build with -DREFIT_ENABLE_CUDA=ON"))
