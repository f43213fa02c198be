"""examples/zero_runtime: any number of ranks computes what one does, within float tolerance, and holds its part of the bytes."""

import math
import re
import subprocess
import sys
import unittest

PROGRAM = sys.argv.pop(1)
ELEMENTS = (91, 13, 143, 11, 99, 9, 27, 3)  # of the parameters: weights and biases of widths 7, 13, 11, 9, 3


def run(ranks):
    return subprocess.run([PROGRAM, str(ranks)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)


class Run:
    def __init__(self, case, ranks):
        result = run(ranks)
        case.assertEqual((result.returncode, result.stderr), (0, ""))
        self.out = result.stdout
        self.losses = [float(found) for found in re.findall(r"^step +\d+ +loss (\S+)$", self.out, re.M)]
        rows = re.findall(r"^(?:weight|bias) +\d +(\d+) +(\d+) +(\S+)$", self.out, re.M)
        self.elements = tuple(int(row[0]) for row in rows)
        self.shards = tuple(int(row[1]) for row in rows)
        self.norms = [float(row[2]) for row in rows]
        # Each line of the table: (what, layer, shards, gathered, buckets, host, lent).
        table = re.findall(r"^ {2,}(\S.*?) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", self.out, re.M)
        self.table = [(row[0], *map(int, row[1:])) for row in table]


class ZeroRuntime(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.runs = {ranks: Run(cls("test_same_result"), ranks) for ranks in (1, 2, 3, 8)}

    def test_same_result(self):
        alone = self.runs[1]
        self.assertEqual(len(alone.losses), 7)
        self.assertLess(alone.losses[-1], alone.losses[0] / 50)
        for ranks in (2, 3, 8):
            for mine, other in zip(self.runs[ranks].losses + self.runs[ranks].norms, alone.losses + alone.norms, strict=True):
                self.assertTrue(math.isclose(mine, other, rel_tol=2e-5, abs_tol=2e-6), f"{ranks} ranks: {mine}, alone {other}")

    def test_shards(self):
        for ranks, found in self.runs.items():
            self.assertEqual(found.elements, ELEMENTS)
            self.assertEqual(found.shards, tuple(-(-count // ranks) for count in ELEMENTS))

    def test_bytes_held(self):
        """The table of step 1: what is gathered, on the host and lent, stage by stage."""
        for ranks, found in self.runs.items():
            whole = [4 * ranks * count for count in found.shards]  # bytes of a gathered copy with its padding
            layers = [whole[2 * layer] + whole[2 * layer + 1] for layer in range(4)]
            activations = [4 * width * 840 // ranks for width in (7, 13, 11, 9, 3)]
            resting = 4 * found.shards[2]
            shards = 4 * sum(found.shards)
            stages = iter(found.table)

            def expect(what, layer, shards, gathered, host):
                stage = next(stages)
                self.assertEqual((stage[0], stage[1], stage[2], stage[3], stage[5]), (what, layer, shards, gathered, host), ranks)
                return stage

            expect("begin", 0, shards, 0, 0)
            host = 0
            for layer in range(4):
                following = layers[layer + 1] if layer < 3 else 0
                expect("forward, a layer gathered", layer, shards, layers[layer] + following, host)
                host += activations[layer] if layer else 0
                expect("released, input offloaded", layer, shards, following, host)
            for layer in (3, 2, 1, 0):
                host -= activations[layer] if layer else 0
                stage = expect("backward, input and gradients there", layer, shards, 0, host)
                self.assertEqual(stage[6], stage[4] + (activations[layer] if layer else 0))
            expect("backward ended", 0, shards, 0, 0)
            stage = expect("updated, a shard offloaded", 1, shards - resting, 0, resting)
            self.assertEqual(stage[6], stage[4])  # the buckets alone are still lent
            self.assertIsNone(next(stages, None))

    def test_refused(self):
        for ranks in ("0", "9", "many"):
            result = run(ranks)
            self.assertNotEqual(result.returncode, 0)
            self.assertTrue(result.stderr.startswith("usage: "), result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=1)
