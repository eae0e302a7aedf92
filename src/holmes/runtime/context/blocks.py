"""Softmax attention one tile at a time: what a rank does with the keys that pass by.

Shape suffixes: B samples, G heads of keys and values, R queries' heads of each, S queries,
T keys, K features. Scores and sums are fp32 at least; a tile is the most that is in
memory of them at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from holmes.plan.chunks import Chunks

TILE = 512
"""Most queries, and most keys, of a tile."""


@dataclass(frozen=True)
class Tile:
    """Neighbouring tokens of a rank: [start, stop) of the sample, from ``place`` in its tensor."""

    place: int
    start: int
    stop: int

    @property
    def local(self) -> slice:
        return slice(self.place, self.place + self.stop - self.start)


@dataclass(frozen=True)
class Rule:
    """Which keys a query reads.

    Attributes:
        causal: those up to its own position.
        key_mask: [B, L] over the whole sample, true where a token is not padding; None: all are.
        window: the most tokens that one reads, itself included, under a causal rule; None: all.
        documents: [B, L], the document of every token of the sample, which alone it reads; None:
            they are not kept apart.
    """

    causal: bool
    key_mask: Tensor | None = None
    window: int | None = None
    documents: Tensor | None = None

    def reads(self, queries: Tile, keys: Tile) -> bool:
        """Whether any query of one tile may read a key of the other."""
        before = self.window is not None and keys.stop - 1 <= queries.start - self.window
        return not self.causal or (keys.start < queries.stop and not before)

    def hidden(self, queries: Tile, keys: Tile, device: torch.device) -> Tensor | None:
        """True where a query does not read a key, broadcastable to [B, 1, 1, S, T]; or None."""
        found: Tensor | None = None
        if self.causal and (keys.stop - 1 > queries.start or self.window is not None):
            rows = torch.arange(queries.start, queries.stop, device=device)
            columns = torch.arange(keys.start, keys.stop, device=device)
            found = self.out_of_reach(rows, columns)
        if self.key_mask is not None:
            padding = ~self.key_mask[:, None, None, None, keys.start : keys.stop]
            found = padding if found is None else found | padding
        if self.documents is not None:
            rows = self.documents[:, queries.start : queries.stop]
            others = self.elsewhere(rows, self.documents[:, keys.start : keys.stop])
            found = others if found is None else found | others
        return found

    def elsewhere(self, rows: Tensor, columns: Tensor) -> Tensor:
        """By the documents of queries [B, S] and keys [B, T]: other ones, [B, 1, 1, S, T]."""
        return (rows[:, :, None] != columns[:, None])[:, None, None]

    def out_of_reach(self, rows: Tensor, columns: Tensor) -> Tensor:
        """By position, [S, T]: what a causal query does not read."""
        found = columns > rows[:, None]
        if self.window is not None:
            found |= columns <= rows[:, None] - self.window
        return found


def tiles(chunks: Chunks, rank: int) -> Iterator[Tile]:
    """The tokens of a rank in tiles; padding is in none."""
    place = 0
    for low, high in chunks.ranges[rank]:
        for start in range(low, high, TILE):
            stop = min(start + TILE, high)
            yield Tile(place, start, stop)
            place += stop - start


def grouped(q_BHSK: Tensor, groups: int) -> Tensor:
    """Queries by the head of keys that they read: [B, G, R, S, K]."""
    samples, heads, *rest = q_BHSK.shape
    return q_BHSK.reshape(samples, groups, heads // groups, *rest)


def scores(q: Tensor, k: Tensor, hidden: Tensor | None) -> Tensor:
    """q k^T / sqrt(K) of [B, G, R, S, K] and [B, G, T, K], -inf where hidden."""
    product = widened(q @ k.unsqueeze(2).mT) / math.sqrt(q.shape[-1])
    return product if hidden is None else product.masked_fill_(hidden, -math.inf)


def widened(x: Tensor) -> Tensor:
    """fp32 at least."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class OnlineSoftmax:
    """Attention of a rank's queries over keys that come in parts (Milakov and Gimelshein 2018).

    Args:
        q_BGRSK: the queries.
    """

    def __init__(self, q_BGRSK: Tensor, chunks: Chunks, rank: int, rule: Rule) -> None:
        self._q, self._chunks, self._rank, self._rule = q_BGRSK, chunks, rank, rule
        wide = widened(q_BGRSK.new_empty(0)).dtype
        self._mixed = torch.zeros_like(q_BGRSK, dtype=wide)
        self._most = self._mixed.new_full((*q_BGRSK.shape[:-1], 1), -math.inf)
        self._sum = torch.zeros_like(self._most)

    def read(self, k_BGTK: Tensor, v_BGTK: Tensor, owner: int) -> None:
        """Take the keys and values of a rank in."""
        for mine in tiles(self._chunks, self._rank):
            for theirs in tiles(self._chunks, owner):
                if self._rule.reads(mine, theirs):
                    hidden = self._rule.hidden(mine, theirs, k_BGTK.device)
                    k, v = k_BGTK[:, :, theirs.local], v_BGTK[:, :, theirs.local]
                    self._add(mine.local, k, v, hidden)

    def _add(self, rows: slice, k: Tensor, v: Tensor, hidden: Tensor | None) -> None:
        found = scores(self._q[..., rows, :], k, hidden)
        before = self._most[..., rows, :]
        most = torch.maximum(before, found.amax(-1, keepdim=True))
        # A row that has read nothing yet has no largest score; its weights are zero.
        base = most.masked_fill(most == -math.inf, 0.0)
        weights = found.sub_(base).exp_()
        scale = (before - base).exp_()
        self._sum[..., rows, :] = self._sum[..., rows, :] * scale + weights.sum(-1, keepdim=True)
        added = widened(weights.to(v.dtype) @ v.unsqueeze(2))
        self._mixed[..., rows, :] = self._mixed[..., rows, :] * scale + added
        self._most[..., rows, :] = most

    def result(self) -> tuple[Tensor, Tensor]:
        """Output [B, G, R, S, K], zeros where a query read nothing, and log sum exp
        [B, G, R, S, 1], there +inf."""
        empty = self._sum == 0
        mixed = self._mixed.div_(self._sum.masked_fill(empty, 1.0))
        base = self._most.masked_fill(empty, 0.0)
        log_sum = (base + self._sum.log()).masked_fill_(empty, math.inf)
        return mixed.to(self._q.dtype), log_sum


@dataclass(frozen=True)
class Gradients:
    """The backward of attention for one rank's queries, whose own gradients it adds up.

    Attributes:
        q, d_out: [B, G, R, S, K]; the queries, and the gradient of the output.
        d_q: fp32 at least, added to.
        log_sum: [B, G, R, S, 1] of the forward.
        delta: [B, G, R, S, 1], the sum of d_out x out over the features.
    """

    q: Tensor
    d_out: Tensor
    d_q: Tensor
    log_sum: Tensor
    delta: Tensor
    chunks: Chunks
    rank: int
    rule: Rule

    def read(self, k_BGTK: Tensor, v_BGTK: Tensor, owner: int) -> Tensor:
        """This rank's part of the gradients of a rank's keys and values, [2, B, G, T, K]."""
        sums = self.d_q.new_zeros((2, *k_BGTK.shape))
        d_k, d_v = sums
        for mine in tiles(self.chunks, self.rank):
            for theirs in tiles(self.chunks, owner):
                if not self.rule.reads(mine, theirs):
                    continue
                rows, columns = mine.local, theirs.local
                k, v = k_BGTK[:, :, columns], v_BGTK[:, :, columns]
                hidden = self.rule.hidden(mine, theirs, k.device)
                found = scores(self.q[..., rows, :], k, hidden)
                weights = found.sub_(self.log_sum[..., rows, :]).exp_()
                self._add(rows, weights, (k, v), (d_k[:, :, columns], d_v[:, :, columns]))
        return sums

    def _add(
        self, rows: slice, weights: Tensor, kv: tuple[Tensor, Tensor], sums: tuple[Tensor, Tensor]
    ) -> None:
        k, v = kv
        q, d_out = self.q[..., rows, :], self.d_out[..., rows, :]
        d_weights = widened(d_out @ v.unsqueeze(2).mT)
        d_scores = d_weights.sub_(self.delta[..., rows, :]).mul_(weights)
        d_scores = d_scores.div_(math.sqrt(q.shape[-1])).to(k.dtype)
        self.d_q[..., rows, :] += widened(d_scores @ k.unsqueeze(2))
        sums[0].add_(widened(d_scores.mT @ q).sum(2))
        sums[1].add_(widened(weights.to(d_out.dtype).mT @ d_out).sum(2))
