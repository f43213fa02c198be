"""Installs the build into a folder, moves that folder, and uses it as a stranger would: no file of the build or of the sources."""

import ctypes
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

CMAKE, BUILD, CC, CXX = sys.argv[1:5]
del sys.argv[1:5]

EXAMPLES = ("train_by_hand", "zero_runtime", "custom_op")
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
C_HEADERS = {"<stdbool.h>", "<stddef.h>", "<stdint.h>"}
# What an environment might point at instead of the installed tree.
STRAY = ("LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CFLAGS", "LDFLAGS", "CMAKE_PREFIX_PATH", "MAKEFLAGS")

KERNELS = """#include <tessera/tessera.h>
#include <stdio.h>
int main(void) {
    tsr_kernel_table *table;
    if (tsr_kernel_table_create(TSR_KERNELS_CPU, &table) != TSR_OK)
        return 1;
    printf("%s %s\\n", TSR_VERSION, tsr_kernel_table_describe(table));
    tsr_kernel_table_release(table);
    return 0;
}
"""


def run(*command, cwd=None, ok=True, **environment):
    env = {name: value for name, value in os.environ.items() if name not in STRAY}
    result = subprocess.run(command, cwd=cwd, env=env | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            stdin=subprocess.DEVNULL, timeout=240)
    if ok and result.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout}")
    return result.stdout


def read(path):
    with open(path) as file:
        return file.read()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)
    return path


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.mkdtemp(prefix="tessera-install-")
        cls.addClassCleanup(shutil.rmtree, cls.scratch)
        first = os.path.join(cls.scratch, "installed")
        run(CMAKE, "--install", BUILD, "--prefix", first)
        cls.prefix = os.path.join(cls.scratch, "moved")
        os.rename(first, cls.prefix)
        cls.pc = cls.only("**", "pkgconfig", "tessera.pc")
        cls.library = cls.only("**", "libtessera.so")
        cls.libdir = os.path.dirname(cls.library)
        cls.include = os.path.join(cls.prefix, "include")
        cls.headers = sorted(glob.glob(os.path.join(cls.include, "tessera", "*.h")))
        cls.examples = os.path.join(cls.prefix, "share", "doc", "tessera", "examples")

    @classmethod
    def only(cls, *parts):
        found = glob.glob(os.path.join(cls.prefix, *parts), recursive=True)
        assert len(found) == 1, f"{parts}: {found}"
        return found[0]

    def pkg_config(self, *flags):
        return run("pkg-config", *flags, "tessera", PKG_CONFIG_PATH=os.path.dirname(self.pc)).split()

    def folder(self):
        folder = tempfile.mkdtemp(dir=self.scratch)
        self.addCleanup(shutil.rmtree, folder)
        return folder

    def version(self):
        text = read(os.path.join(self.include, "tessera", "version.h"))
        return ".".join(re.search(rf"^#define TSR_VERSION_{part} (\d+)$", text, re.M).group(1) for part in ("MAJOR", "MINOR", "PATCH"))

    def needed(self, binary):
        return set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", binary)))

    # ---- the library ----

    def test_version(self):
        version = self.version()
        soname = f"libtessera.so.{version.rpartition('.')[0]}"
        self.assertEqual(self.pkg_config("--modversion"), [version])
        self.assertEqual(run(os.path.join(self.prefix, "bin", "tessera"), "--version"), f"tessera {version}\n")
        self.assertIn(f"Library soname: [{soname}]", run("readelf", "-d", self.library))
        self.assertEqual(os.path.basename(os.path.realpath(self.library)), f"libtessera.so.{version}")
        self.assertEqual(os.readlink(self.library), soname)

    def test_exports(self):
        """Exactly the functions that the public headers mark TSR_API."""
        declared = set()
        for header in self.headers:
            text = re.sub(r"^#define.*$", "", read(header), flags=re.M)
            declared |= set(re.findall(r"\bTSR_API\b[^;(]*?\b(tsr_\w+)\s*\(", text))
        self.assertGreater(len(declared), 100)
        exported = set()
        for line in run("nm", "-D", "--defined-only", self.library).splitlines():
            exported.add(line.split()[-1])
        self.assertEqual(declared - exported, set(), "declared, not exported")
        self.assertEqual(exported - declared, set(), "exported, not declared")

    def test_program_stands_alone(self):
        program = os.path.join(self.prefix, "bin", "tessera")
        self.assertFalse([name for name in self.needed(program) if "tessera" in name])
        self.assertNotIn("RUNPATH", run("readelf", "-d", program))
        text = write(os.path.join(self.folder(), "text.txt"), "the cat sat on a mat. " * 40)
        out = os.path.join(os.path.dirname(text), "out")
        run(program, "train", "--model", "gpt2-tiny", "--seq", "32", "--batch", "2", "--threads", "1", "--ranks", "2", "--steps", "3",
            "--data", text, "--out", out)
        self.assertIn("step-3", os.listdir(out))

    def test_modules_are_installed(self):
        """Every module that was built lies where program and library look."""
        built = glob.glob(os.path.join(BUILD, "lib", "tessera", "*.so"))
        if not built:
            self.skipTest("this build has no modules")
        for module in built:
            self.assertTrue(os.path.exists(os.path.join(self.prefix, "lib", "tessera", os.path.basename(module))), module)

    def test_onednn_is_found(self):
        try:
            ctypes.CDLL("libdnnl.so.2")
        except OSError:
            self.skipTest("libdnnl.so.2 is not installed")
        self.assertIn("oneDNN", self.compile_c(KERNELS, "kernels"))

    # ---- headers ----

    def test_headers_alone(self):
        for header in self.headers:
            source = write(os.path.join(self.folder(), "alone.c"),
                           f'#include <tessera/{os.path.basename(header)}>\nextern int not_empty;\n')
            run(CC, "-xc", "-std=c11", *WARNINGS, "-I", self.include, "-fsyntax-only", source)
            run(CXX, "-xc++", "-std=c++17", *WARNINGS, "-I", self.include, "-fsyntax-only", source)

    def test_headers_are_public(self):
        """They include each other and the C standard's, and are what the sources have."""
        for header in self.headers:
            for name in re.findall(r"^\s*#\s*include\s+(\S+)", read(header), re.M):
                inside = name.startswith('"tessera/') and os.path.exists(os.path.join(self.include, name.strip('"')))
                self.assertTrue(inside or name in C_HEADERS, f"{header} includes {name}")
        everything = {os.path.basename(header) for header in self.headers} - {"tessera.h"}
        included = set(re.findall(r'"tessera/(\w+\.h)"', read(os.path.join(self.include, "tessera", "tessera.h"))))
        self.assertEqual(everything, included, "tessera.h includes every header")

    # ---- pkg-config ----

    def compile_c(self, text, name, compiler=(CC,), flags=None):
        folder = self.folder()
        source = write(os.path.join(folder, f"{name}.c"), text)
        program = os.path.join(folder, name)
        run(*compiler, source, *(self.pkg_config("--cflags", "--libs") if flags is None else flags), "-o", program)
        return run(program, LD_LIBRARY_PATH=self.libdir)

    def test_examples_by_pkg_config(self):
        for name in EXAMPLES:
            program = os.path.join(self.folder(), name)
            run(CC, *WARNINGS, "-O2", os.path.join(self.examples, f"{name}.c"), *self.pkg_config("--cflags", "--libs"), "-lm",
                "-o", program)
            self.assertTrue(any("libtessera.so." in needed for needed in self.needed(program)))
            for arguments in [(), ("--check",)] if name == "custom_op" else [()]:
                self.check_example(name, arguments, run(program, *arguments, LD_LIBRARY_PATH=self.libdir))

    def check_example(self, name, arguments, out):
        if arguments == ("--check",):
            errors = [float(error) for error in re.findall(r"error (\S+) %", out)]
            self.assertEqual(len(errors), 5, out)
            self.assertLess(max(errors), 0.2, out)
            return
        losses = [float(loss) for loss in re.findall(r"^step +\d+ +loss (\S+)$", out, re.M)]
        self.assertGreaterEqual(len(losses), 5, out)
        self.assertLess(losses[-1], losses[0] / 5, out)
        if name == "zero_runtime":
            self.assertIn("All memory lent to the runtime came back.", out)

    def test_makefile(self):
        folder = os.path.join(self.folder(), "examples")
        shutil.copytree(self.examples, folder)
        out = run("make", "check", f"CC={CC}", f"PKG_CONFIG_PATH={os.path.dirname(self.pc)}", cwd=folder)
        self.assertIn("./custom_op --check", out)
        self.assertEqual(len(re.findall(r"error 0\.\d+ %", out)), 5)

    def test_static(self):
        """The archive, with what --static names; nothing of the shared library."""
        flags = ["-l:libtessera.a" if flag == "-ltessera" else flag for flag in self.pkg_config("--cflags", "--static", "--libs")]
        program = os.path.join(self.folder(), "train_by_hand")
        run(CC, os.path.join(self.examples, "train_by_hand.c"), *flags, "-o", program)
        self.check_static(program)

    def check_static(self, program):
        """A trainer needs all of the library, and jansson and xxHash too."""
        self.assertFalse([needed for needed in self.needed(program) if "tessera" in needed])
        self.check_example("train_by_hand", (), run(program))

    def test_cxx(self):
        flags = ["-std=c++17", *WARNINGS, *self.pkg_config("--cflags", "--libs")]
        self.assertIn(self.version(), self.compile_c(KERNELS, "kernels", (CXX, "-xc++"), ["-xnone", *flags]))

    # ---- CMake ----

    def configure(self, source, *flags, ok=True):
        return run(CMAKE, "-S", source, "-B", os.path.join(source, "build"), f"-DCMAKE_C_COMPILER={CC}",
                   f"-DCMAKE_PREFIX_PATH={self.prefix}", *flags, ok=ok)

    def test_find_package(self):
        folder = os.path.join(self.folder(), "examples")
        shutil.copytree(self.examples, folder)
        self.configure(folder)
        build = os.path.join(folder, "build")
        run(CMAKE, "--build", build)
        run(os.path.join(os.path.dirname(CMAKE), "ctest"), "--test-dir", build, "--no-tests=error", "--output-on-failure")

    def project(self, find, target):
        folder = self.folder()
        shutil.copy(os.path.join(self.examples, "train_by_hand.c"), folder)
        write(os.path.join(folder, "CMakeLists.txt"),
              f"cmake_minimum_required(VERSION 3.25)\nproject(stranger C)\nfind_package(tessera {find} REQUIRED)\n"
              f"add_executable(stranger train_by_hand.c)\ntarget_link_libraries(stranger PRIVATE {target})\n")
        return folder

    def test_find_package_static(self):
        folder = self.project("COMPONENTS static", "tessera::tessera_static")
        self.configure(folder)
        run(CMAKE, "--build", os.path.join(folder, "build"))
        self.check_static(os.path.join(folder, "build", "stranger"))

    def test_find_package_versions(self):
        major, minor, _ = self.version().split(".")
        self.configure(self.project(f"{major}.{minor}", "tessera::tessera"))
        for other in (f"{major}.{int(minor) + 1}", f"{int(major) + 1}.0", "0.0.9"):
            self.assertIn("considered but not accepted", self.configure(self.project(other, "tessera::tessera"), ok=False))


if __name__ == "__main__":
    missing = [tool for tool in ("pkg-config", "make", "readelf", "nm") if shutil.which(tool) is None]
    if missing:
        print(f"skipped: {', '.join(missing)} is not installed")
        sys.exit(77)
    unittest.main(verbosity=1)
