"""Planted bugs: a line of a mixer, or of what it is built on, replaced by the mistake one makes there.

Each entry is (name of the bug, kind, index of its Config in mixer_cases.TINY, module, line, wrong line). The line
must occur in the module exactly once, so that a mutant cannot quietly stop being one.
"""

MUTANTS = [
    (
        "a query sees the next token",
        "gqa", 0, "llm.nn.kernels.attention",
        "device=q_BNTH.device).triu(1)",
        "device=q_BNTH.device).triu(2)",
    ),
    (
        "documents of a row are not told apart",
        "gqa", 0, "llm.nn.mixers.gqa",
        "mask=context.mask_BTS",
        "mask=None",
    ),
    (
        "cached keys are not rotated",
        "gqa", 0, "llm.nn.mixers.gqa",
        "        state.append(k, v, step)",
        "        angles = position.angles(0 * step.positions_BT, k.dtype)\n"
        "        state.append(self.project(x_BTD, position, angles)[1], v, step)",
    ),
    (
        "the position starts at 0 again with every step",
        "gqa", 0, "llm.nn.mixers.gqa",
        "q, k, v = self.project(x_BTD, position, step.angles)",
        "q, k, v = self.project(x_BTD, position, position.angles(step.positions_BT * 0, step.dtype))",
    ),
    (
        "a rollback forgets nothing",
        "gqa", 0, "llm.nn.mixers.gqa",
        "        self.lengths_B, self.longest = mark",
        "        self.lengths_B, self.longest = self.lengths_B, self.longest",
    ),
    (
        "all rows are as long as the longest",
        "gqa", 0, "llm.nn.mixers.base",
        "        ends_B=state.lengths_B + (tokens if lengths_B is None else lengths_B),",
        "        ends_B=state.lengths_B + tokens,",
    ),
    (
        "key-value heads are tiled in the cache, not repeated",
        "gqa", 0, "llm.nn.mixers.gqa",
        "return self.k_BGSH[:, :, : self.longest]",
        "return self.k_BGSH.flip(1)[:, :, : self.longest]",
    ),
]  # fmt: skip
