"""Real DeepSpeed on two ranks: losses and gradient norms of every step as those of its own eager ZeRO. faults.py shows that this
sees wrong builds."""
import unittest

import train


class Train(unittest.TestCase):

    def check(self, *arguments):
        options = train.parse(arguments)
        found = train.compare(options)
        self.assertTrue(train.within(found, options["dtype"]), found)

    def test_stage_3(self):
        self.check("3", "f32", "eager", "layers=1", "steps=7")

    def test_stage_3_with_every_setting_changed(self):
        """They say when to wait, what to free and what to keep: none changes a bit."""
        run = ("3", "f32", "eager", "layers=1", "steps=2")
        changed = ("double_buffer=false", "sync_before_reduce=true", "sync_after_reduce=true", "sync_before_allgather=true",
                   "sync_after_allgather=true", "free_activation=true", "free_activation_threshold=0", "debug_log=true",
                   "keep_int_input_tensors=false", "keep_all_input_tensors=true", "offload_activation_pin_memory=false",
                   'passes=["z3"]')
        found = train.launch("ours", train.parse(run + tuple(f"compile.{each}" for each in changed)))
        self.assertEqual(found["steps"], train.launch("ours", train.parse(run))["steps"])

    def test_stage_2_inductor_bf16(self):
        self.check("2", "bf16", "inductor", "layers=1", "steps=2")

    def test_stage_1_micro_steps(self):
        self.check("1", "f32", "eager", "layers=1", "steps=2", "micro_steps=2")

    def test_engines_in_turns(self):
        """Both count parameters from 0, and a pass that begins resets torch.compile for both."""
        self.assertTrue(
            train.turns_are_as_alone("3 f32 eager layers=1 steps=3 compile.offload_opt_states=true",
                                     "1 f32 eager layers=2 width=16 steps=2 micro_steps=2"))


if __name__ == "__main__":
    unittest.main()
