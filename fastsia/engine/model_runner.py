"""Runs the model on a batch: its tensors, its forward pass, its head, and the pools they write to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from fastsia.config import FastsiaError
from fastsia.engine.attention import AttentionContext, fastsia_attention
from fastsia.engine.batch import Batch
from fastsia.engine.table import Table
from fastsia.ops import Ops
from fastsia.ops.reference import AttentionMetadata


class ModelRunner:
    """A decoder of transformers, unmodified, over one pool of KV blocks.

    kv_cache: [num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim] in the model's dtype.
    fused_head: the head is its weight (and Gemma2's softcap); False where a model does more to its logits (Granite
        scales them): then its own forward makes them from the hidden states.
    num_out_of_memory: how often the device's memory did not suffice and less was tried.
    """

    def __init__(self, model: PreTrainedModel, ops: Ops, num_blocks: int, block_size: int) -> None:
        self.model = model
        self.ops = ops
        config = model.config.get_text_config(decoder=True)
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        num_kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.hidden_size = int(config.hidden_size)
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self._softcap = getattr(config, "final_logit_softcapping", None)
        shape = (config.num_hidden_layers, 2, num_blocks, block_size, num_kv_heads, head_dim)
        self.kv_cache = _zeros(shape, self.dtype, self.device)
        self._hidden = torch.empty((256, self.hidden_size), dtype=self.dtype, device=self.device)
        self._hidden_rows = Table(256)
        self.fused_head = True
        self.num_out_of_memory = 0
        self._check()

    @staticmethod
    def bytes_per_block(model: PreTrainedModel, block_size: int) -> int:
        config = model.config.get_text_config(decoder=True)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        num_kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = torch.finfo(next(model.parameters()).dtype).bits // 8
        return int(config.num_hidden_layers * 2 * block_size * num_kv_heads * head_dim * size)

    def forward(self, batch: Batch) -> Tensor:
        """Final hidden states of the batch's rows, [n, hidden_size]; their keys and values are stored on the way."""
        meta = AttentionMetadata(
            trunk_tables=self._tensor(batch.trunk_tables),
            cu_rows=self._tensor(batch.cu_rows),
            prefix_lens=self._tensor(batch.prefix_lens),
            suffix_tables=self._tensor(batch.suffix_tables),
            suffix_lens=self._tensor(batch.suffix_lens),
            max_prefix_len=batch.max_prefix_len,
            max_suffix_len=batch.max_suffix_len,
            max_rows=batch.max_rows,
        )
        context = AttentionContext(self.ops, self.kv_cache, self._tensor(batch.slots), meta)
        with torch.inference_mode(), fastsia_attention(self.model):
            output = self.model.base_model(
                input_ids=self._tensor(batch.token_ids)[None],
                position_ids=self._tensor(batch.positions)[None],
                use_cache=False,
                fastsia_context=context,
            )
        return output.last_hidden_state[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """[r, hidden_size] -> [r, vocab_size]."""
        with torch.inference_mode():
            if not self.fused_head:
                return self._own_head(hidden)
            logits = self.model.get_output_embeddings()(hidden)
            return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap

    def _own_head(self, hidden: Tensor) -> Tensor:
        """The model's own forward with its decoder replaced by the hidden states that it has already given."""
        base = self.model.base_model
        base.forward = lambda **_: BaseModelOutputWithPast(last_hidden_state=hidden[None])
        try:
            token = torch.zeros((1, 1), dtype=torch.int64, device=self.device)
            return self.model(input_ids=token, use_cache=False).logits[0]
        finally:
            del base.forward

    def draw(
        self,
        hidden: Tensor,
        draw_row: np.ndarray,
        seeds: np.ndarray,
        counters: np.ndarray,
        temperature: np.ndarray,
        top_p: np.ndarray,
        want_entropy: bool,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`ops.sample` from the logits of hidden states [R, hidden_size], on numpy arrays.

        Where the device has no memory for the logits of all rows at once, half of them are done at a time.

        Returns:
            tokens [M], logprobs [M] and entropy [R] (NaN unless wanted).
        """
        try:
            return self._draw(hidden, draw_row, seeds, counters, temperature, top_p, want_entropy)
        except torch.OutOfMemoryError:
            if len(hidden) == 1:
                raise
        # Outside of the handler: there the exception would keep what did not fit alive.
        self.release_memory()
        half = len(hidden) // 2
        tokens = np.empty(len(draw_row), dtype=np.int64)
        logprobs = np.empty(len(draw_row), dtype=np.float32)
        entropies = []
        for rows in (slice(0, half), slice(half, len(hidden))):
            mine = (draw_row >= rows.start) & (draw_row < rows.stop)
            tokens[mine], logprobs[mine], entropy = self.draw(
                hidden[rows],
                draw_row[mine] - rows.start,
                seeds[mine],
                counters[mine],
                temperature[rows],
                top_p[rows],
                want_entropy,
            )
            entropies.append(entropy)
        return tokens, logprobs, np.concatenate(entropies)

    def _draw(
        self,
        hidden: Tensor,
        draw_row: np.ndarray,
        seeds: np.ndarray,
        counters: np.ndarray,
        temperature: np.ndarray,
        top_p: np.ndarray,
        want_entropy: bool,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        logits = self.logits(hidden)
        with torch.inference_mode():
            samples = self.ops.sample(
                logits,
                self._tensor(draw_row),
                self._tensor(seeds),
                self._tensor(counters),
                self._tensor(temperature),
                self._tensor(top_p),
                want_entropy,
            )
        entropy = np.full(len(logits), np.nan, dtype=np.float32)
        if samples.entropy is not None:
            entropy = samples.entropy.cpu().numpy()
        return samples.tokens.cpu().numpy(), samples.logprobs.cpu().numpy(), entropy

    def release_memory(self) -> None:
        """Give back what torch keeps of freed memory: pieces of it may be too small for what is wanted next."""
        self.num_out_of_memory += 1
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def copy_blocks(self, src: np.ndarray, dst: np.ndarray) -> None:
        if len(src):
            with torch.inference_mode():
                self.ops.copy_blocks(self.kv_cache, self._tensor(src), self._tensor(dst))

    def clear_blocks(self, blocks: np.ndarray) -> None:
        """Zero blocks that bad rows have written: a NaN in a block's unused part would reach whoever holds it next."""
        self.kv_cache[:, :, self._tensor(blocks.astype(np.int64))] = 0

    # --- final hidden states of trunks, kept until their trunk pass ----------------------------------------------

    def keep_hidden(self, hidden: Tensor) -> np.ndarray:
        """Store hidden states [k, hidden_size]; gives the rows they lie in, int32 [k]."""
        rows = self._hidden_rows.allocate(len(hidden))
        if self._hidden_rows.capacity > len(self._hidden):
            larger = self._hidden.new_empty((self._hidden_rows.capacity, self.hidden_size))
            larger[: len(self._hidden)] = self._hidden
            self._hidden = larger
        with torch.inference_mode():
            self._hidden[self._tensor(rows.astype(np.int64))] = hidden
        return rows

    def hidden(self, rows: np.ndarray) -> Tensor:
        """Kept hidden states, [len(rows), hidden_size]."""
        return self.take(self._hidden, rows.astype(np.int64))

    def take(self, tensor: Tensor, rows: np.ndarray) -> Tensor:
        """Rows of a tensor on the device by int64 numbers on the host."""
        return tensor.index_select(0, self._tensor(rows))

    def drop_hidden(self, rows: np.ndarray) -> None:
        self._hidden_rows.free(rows)

    def reset(self) -> None:
        """Forget every kept hidden state (a run was left in the middle)."""
        self._hidden_rows = Table(len(self._hidden))

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)

    def _check(self) -> None:
        """Compare our path with the model's own on a few tokens: attention reached, and the head's logits.

        Some models scale their logits (Granite) or post-process them; there the model's own forward is the head.
        """
        tokens = np.arange(3, dtype=np.int64) % self.vocab_size
        one = np.zeros(1, dtype=np.int32)
        batch = Batch(
            token_ids=tokens,
            positions=np.arange(3),
            slots=np.arange(3),
            trunk_tables=one[None],
            cu_rows=np.array([0, 3], dtype=np.int32),
            prefix_lens=np.arange(1, 4, dtype=np.int32),
            suffix_tables=np.zeros((3, 0), dtype=np.int32),
            suffix_lens=np.zeros(3, dtype=np.int32),
            max_prefix_len=3,
            max_suffix_len=0,
            max_rows=3,
            trunk_last=one[:0],
            branch_last=one[:0],
            hidden_rows=one[:0],
            hidden_trunk=one[:0],
            hidden_position=one[:0],
        )
        if self.kv_cache.shape[3] < 3:
            raise FastsiaError(f"block_size must be at least 4, got {self.kv_cache.shape[3]}.")
        hidden = self.forward(batch)
        training = self.model.training
        self.model.eval()
        with torch.inference_mode():
            theirs = self.model(input_ids=self._tensor(tokens)[None], use_cache=False).logits[0].float()
        self.model.train(training)
        limit = (1e-3 if self.dtype in (torch.float32, torch.float64) else 0.15) * max(theirs.abs().max().item(), 1.0)
        for self.fused_head in (True, False):
            error = (self.logits(hidden).float() - theirs).abs().max().item()
            if error <= limit:
                return
        raise FastsiaError(
            f"{type(self.model).__name__} gives other logits through fastsia's attention than through its own forward"
            f" (largest difference {error:.3g}); this architecture is not supported."
        )


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU from the operating system's own zero pages, so that blocks never used take no memory.

    They must be zeros: a masked key has weight 0, and 0 times whatever memory held could be NaN.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = torch.finfo(dtype).bits // 8
    return torch.from_numpy(np.zeros(int(np.prod(shape)) * size, dtype=np.uint8)).view(dtype).view(shape)
