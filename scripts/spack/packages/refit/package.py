"""refit for Spack, from a checkout:

    spack repo add CHECKOUT/scripts/spack
    spack dev-build --source-path CHECKOUT refit@0.2.0                  # hosts
    spack dev-build --source-path CHECKOUT refit@0.2.0 +cuda cuda_arch=90   # NVIDIA GPUs
"""

from spack.package import *


class Refit(CMakePackage, CudaPackage):
    """Moves model weights from a trainer's layout to inference engines' layouts, and proves that they arrived."""

    version("0.2.0")

    variant("tests", default=False, description="Build the tests")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("ninja", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("mpi")
    depends_on("hdf5")
    depends_on("fmt")
    depends_on("spdlog")
    depends_on("nlohmann-json")
    depends_on("cli11")
    depends_on("tomlplusplus")
    depends_on("xxhash")
    depends_on("googletest", when="+tests", type="build")
    depends_on("benchmark", when="+tests", type="build")
    depends_on("python@3.9:", when="+tests", type="build")

    depends_on("kokkos@3.4: +serial", when="~cuda")
    depends_on("kokkos@4: +cuda +wrapper", when="+cuda")
    depends_on("cuda@12.4:", when="+cuda")
    depends_on("nccl@2.27:", when="+cuda")
    for arch in CudaPackage.cuda_arch_values:
        depends_on(f"kokkos cuda_arch={arch}", when=f"+cuda cuda_arch={arch}")

    generator("ninja")

    def cmake_args(self):
        args = [
            self.define_from_variant("REFIT_ENABLE_CUDA", "cuda"),
            self.define_from_variant("REFIT_BUILD_TESTS", "tests"),
            self.define_from_variant("REFIT_BUILD_BENCHMARKS", "tests"),
            self.define("Kokkos_ROOT", self.spec["kokkos"].prefix),
        ]
        if self.spec.satisfies("+cuda"):
            args.append(self.define("NCCL_ROOT", self.spec["nccl"].prefix))
        return args
