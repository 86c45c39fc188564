"""Only lib/core prints, writes and renames files (core/console.hpp, core/files.hpp): elsewhere a full or closed stream would
end the process, and a killed process would leave half a file.

    outputs_test.py ROOT
"""

import os
import re
import sys

ALLOWED = (
    "lib/core/console.cpp",
    "lib/core/files.cpp",
    "lib/core/temporary_file.cpp",
    "lib/engine/board.cpp",  # shared memory
)
FORBIDDEN = {
    r"\bfmt::print\b|\b(std::)?v?f?printf\(|\b(std::)?f?puts\(|\bstd::(cerr|clog)\b": "print and print_error of core/console.hpp",
    r"\bstd::o?fstream\b|\b(std::)?fopen\(|\brename\(|\bO_CREAT\b": "report::write_file, or TemporaryFile of core/files.hpp",
}
PLANTED = ('fmt::print(stderr, "x");', 'std::fprintf(stderr, "x");', "std::cerr << 1;", "std::ofstream file(path);", "fs::rename(a, b);")
FINE = ('std::snprintf(text, 8, "x");', "fmt::format(x);", "std::ifstream file(path);", "std::cout.flush();", "refit::print(x);")


def complaint(line):
    code = line.split("//")[0]
    for pattern, instead in FORBIDDEN.items():
        if re.search(pattern, code):
            return instead
    return ""


def main():
    problems = [f"not found: {line}" for line in PLANTED if not complaint(line)]
    problems += [f"found: {line}" for line in FINE if complaint(line)]
    count = 0
    for top in ("lib", "app", "kernels"):
        for base, _, names in os.walk(os.path.join(sys.argv[1], top)):
            for name in names:
                path = os.path.relpath(os.path.join(base, name), sys.argv[1])
                if path in ALLOWED or not name.endswith((".cpp", ".hpp")):
                    continue
                count += 1
                with open(os.path.join(sys.argv[1], path), encoding="utf-8") as file:
                    for number, line in enumerate(file, 1):
                        if instead := complaint(line):
                            problems.append(f"{path}:{number}: use {instead}")
    print("\n".join(problems) if problems else f"{count} files: none writes by itself")
    sys.exit(1 if problems or count == 0 else 0)


main()
