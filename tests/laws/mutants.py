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
        "mask=lambda: context.mask_BTS, bias_NTS=bias, segments_BT=documents",
        "mask=None, bias_NTS=bias, segments_BT=None",
    ),
    (
        "cached keys are not rotated",
        "gqa", 0, "llm.nn.mixers.gqa",
        "        state.append(k, v, step)\n        o_BNTH",
        "        angles = position.angles(0 * step.positions_BT, k.dtype)\n"
        "        state.append(self.project(x_BTD, position, angles)[1], v, step)\n        o_BNTH",
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
        "return self.k_BGSH.narrow(2, 0, self.longest)",
        "return self.k_BGSH.flip(1).narrow(2, 0, self.longest)",
    ),
    (
        "a decoded key overwrites the one before",
        "gqa", 0, "llm.nn.mixers.gqa",
        "self.k_BGSH.narrow(2, step.place, 1)",
        "self.k_BGSH.narrow(2, max(step.place - 1, 0), 1)",
    ),
    (
        "the gate is that of the token before",
        "gqa", 3, "llm.nn.mixers.gqa",
        "self.w_gate(x_BTD)",
        "self.w_gate(x_BTD.roll(1, dims=1))",
    ),
    (
        "decoding leaves the gate open",
        "gqa", 3, "llm.nn.mixers.gqa",
        "if self.w_gate is not None:",
        "if self.w_gate is not None and x_BTD.shape[1] > 1:",
    ),
    (
        "the band is one token too wide",
        "sliding_window", 0, "llm.nn.kernels.banded",
        "(key_C12W > query_CW1 - W)",
        "(key_C12W >= query_CW1 - W)",
    ),
    (
        "the empty room of a state is taken for tokens",
        "sliding_window", 0, "llm.nn.mixers._window",
        "place_S >= room - state.lengths_B[:, None]",
        "place_S >= 0 * state.lengths_B[:, None]",
    ),
    (
        "a global key inside the window counts twice",
        "longformer", 0, "llm.nn.kernels.banded",
        "(place_B1M <= edge_T1)",
        "(place_B1M <= edge_T1 + window)",
    ),
    (
        "a document sees the global tokens of those before it",
        "longformer", 0, "llm.nn.kernels.banded",
        " & (place_B1M >= starts_BT[..., None])",
        "",
    ),
    (
        "global tokens are counted from the start of the row",
        "longformer", 0, "llm.nn.mixers.longformer",
        "flags_BT = self.config.is_global(place_BT) &",
        "flags_BT = self.config.is_global(index_T.expand_as(place_BT)) &",
    ),
    (
        "a global query sees the next token",
        "longformer", 0, "llm.nn.mixers.longformer",
        "(index_T <= index_BM[..., None])",
        "(index_T <= index_BM[..., None] + 1)",
    ),
    (
        "the state of one document is read in the next",
        "mamba2", 0, "llm.nn.kernels.linear_attention",
        "return segments == before, segments == last, last == before",
        "return segments == segments, segments == last, last == before",
    ),
    (
        "the convolution reads the document before",
        "mamba2", 0, "llm.nn.mixers.mamba2",
        "self.conv(xBC, segments)",
        "self.conv(xBC)",
    ),
    (
        "decoding forgets the last inputs of the convolution",
        "mamba2", 0, "llm.nn.mixers.mamba2",
        'xBC, state["tail"] = self.conv.step(xBC, state["tail"], step.real_BT)',
        'xBC, _ = self.conv.step(xBC, state["tail"], step.real_BT)',
    ),
    (
        "padding lets the state fade",
        "mamba", 0, "llm.nn.mixers.mamba",
        "dt = dt * step.real_BT[..., None]",
        "dt = dt * 1",
    ),
    (
        "no document begins with an empty state",
        "mamba", 0, "llm.nn.mixers.mamba",
        "keep = None if context.segments_BT is None else same_as_before(context.segments_BT).to(dt.dtype)",
        "keep = None",
    ),
    (
        "a rollback keeps what was written",
        "mamba", 0, "llm.nn.mixers.base",
        "self.lengths_B, self.longest, self.tensors = mark[0], mark[1], dict(mark[2])",
        "self.lengths_B, self.longest = mark[0], mark[1]",
    ),
    (
        "the token before is of another document",
        "rwkv7", 0, "llm.nn.mixers.rwkv7",
        "token_shift.previous(x_BTD, context.segments_BT)",
        "token_shift.previous(x_BTD)",
    ),
    (
        "the state is probed after it has faded",
        "rwkv7", 0, "llm.nn.kernels.dplr",
        "probe * (sums - decay).exp()",
        "probe * sums.exp()",
    ),
    (
        "what a chunk removes from the state before it is forgotten",
        "rwkv7", 0, "llm.nn.kernels.dplr",
        "keep + writes[..., :C, :].mT @ stale, writes.mT @ values",
        "keep, writes.mT @ values",
    ),
    (
        "sums fade over padding",
        "rwkv4", 0, "llm.nn.kernels.wkv",
        "fade = fade.masked_fill(~real_BT[..., None], 0)",
        "fade = fade.masked_fill(~real_BT[..., None] & False, 0)",
    ),
    (
        "an average goes on into the next document",
        "rwkv4", 0, "llm.nn.kernels.wkv",
        "befores = befores if start is None else befores.masked_fill(start, EMPTY)",
        "befores = befores",
    ),
    (
        "the bonus is kept in the sums",
        "rwkv4", 0, "llm.nn.kernels.wkv",
        "keep, weight = (befores + fade - tops).exp(), (written - tops).exp()",
        "keep, weight = (befores + fade - tops).exp(), (written + bonus_D - tops).exp()",
    ),
    (
        "decoding forgets the token before",
        "rwkv_channel", 0, "llm.nn.mixers.rwkv_channel",
        'before, state["last"] = token_shift.step(',
        "before, _ = token_shift.step(",
    ),
    (
        "padding is taken for the last token",
        "rwkv_channel", 1, "llm.nn.kernels.token_shift",
        "last_inputs(seen, 1, real_BT)",
        "seen[:, -1:]",
    ),
    (
        "a block is chosen before it is over",
        "moba", 0, "llm.nn.mixers.moba",
        "past = (block_c >= first) & (block_c < own)",
        "past = (block_c >= first) & (block_c <= own + 1)",
    ),
    (
        "blocks of the document before are chosen",
        "moba", 0, "llm.nn.mixers.moba",
        "past = (block_c >= first) & (block_c < own)",
        "past = (block_c >= 0 * first) & (block_c < own)",
    ),
    (
        "decoding ranks keys as they were before their rotation",
        "moba", 0, "llm.nn.mixers.moba",
        "        state.write(k.transpose(1, 2).flatten(2), v.transpose(1, 2).flatten(2), step)",
        "        state.write(self.project(x_BTD, position, position.angles(0 * step.positions_BT, k.dtype))[1]"
        ".transpose(1, 2).flatten(2), v.transpose(1, 2).flatten(2), step)\n"
        "        state.append(step, k=k.transpose(1, 2).flatten(2))",
    ),
    (
        "the mean of a block is not renewed as it fills",
        "moba", 0, "llm.nn.mixers.moba",
        "(T + C - 2) // C + 1",
        "(T + C - 2) // C",
    ),
    (
        "a query sees the whole of its own block",
        "moba", 0, "llm.nn.mixers.moba",
        "limit[..., 0] = (place_BT % self.block)[:, None]",
        "limit[..., 0] = self.block - 1",
    ),
    (
        "the results of blocks are averaged, not joined by their sums",
        "moba", 0, "llm.nn.kernels.block_attention",
        "share_MK = (lse_MK - joint_M[:, None]).exp_()",
        "share_MK = torch.softmax((lse_MK > float('-inf')) * 1e3, dim=-1).to(lse_MK)",
    ),
    (
        "the softmax over several blocks has no backward pass of its own",
        "moba", 0, "llm.nn.kernels.block_attention",
        "(d_out_nQV @ v_nCV.mT).to(wide).sub_(mean_M[part.query_nQ][..., None])",
        "(d_out_nQV @ v_nCV.mT).to(wide)",
    ),
    (
        "a summary is seen before its block is complete",
        "nsa", 0, "llm.nn.mixers.nsa",
        "(place_BT - self.block + 1) // self.stride",
        "(place_BT - self.block + 2) // self.stride",
    ),
    (
        "decoding never writes the summary that a token completes",
        "nsa", 0, "llm.nn.mixers.nsa",
        "complete_Bc = (number_Bc >= 0) & (number_Bc * s + l <= start_B1 + T)",
        "complete_Bc = (number_Bc >= 0) & (number_Bc * s + l < start_B1 + T)",
    ),
    (
        "decoding summarises rotated keys",
        "nsa", 0, "llm.nn.mixers.nsa",
        'new = {"k": parts.far[0], "v": parts.far[1]}',
        'new = {"k": position.rotate(parts.far[0].transpose(1, 2), step.angles).transpose(1, 2), "v": parts.far[1]}',
    ),
    (
        "summaries of the document before are seen",
        "nsa", 0, "llm.nn.mixers.nsa",
        "low_BT, high_BT, look)",
        "low_BT * 0, high_BT, look)",
    ),
    (
        "a rollback keeps the latest tokens",
        "nsa", 0, "llm.nn.mixers.nsa",
        "        self.recent.rollback(mark[1])",
        "        pass",
    ),
    (
        "the window of the first tokens is full",
        "nsa", 0, "llm.nn.mixers.nsa",
        "torch.arange(-self.window, T, device=device) >= 0",
        "torch.arange(-self.window, T, device=device) >= -self.window",
    ),
    (
        "attention to nothing has a gradient",
        "nsa", 0, "llm.nn.kernels.compressed",
        "d_scores = (d_out @ v_BGJV[:, :, :J].mT).to(wide).sub_(mean)",
        "d_scores = (d_out @ v_BGJV[:, :, :J].mT).to(wide)",
    ),
]  # fmt: skip
