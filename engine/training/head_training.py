"""The draft head in a form that can be differentiated, over many places of a text at once.

The head guesses in chains. From a place t the target has computed, step s reads what step s - 1 made of the place
before (at first the target's own last residual stream there) and the token at t + s, and says what follows:

    target computed  | x0 x1 ... xt |       keys and values of some of its layers, read as they lie
    step 1                h_t  + x(t+1)  -> h'(t+1) -> guess of x(t+2)
    step 2                h'(t+1) + x(t+2)  -> h'(t+2) -> guess of x(t+3)

All chains of a text are computed side by side: each sees the target's keys up to its own t, and those its own steps
made. What a guess says is mixed with what followed the longest earlier match of the text before it (the pointer; See et
al., 2017): one weight for each length of a match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.model.checkpoint import Checkpoint
from engine.model.rope import Rope
from engine.model.shape import ModelShape
from engine.speculation.head import POINTER

FUSE, FUSE_UP, FUSE_DOWN = "fuse.weight", "fuse.up.weight", "fuse.down.weight"
HIDDEN_NORM, TOKEN_NORM, NORM = "hidden_norm.weight", "token_norm.weight", "model.norm.weight"

CPU = torch.device("cpu")
LONGEST_TEXT = 8192  # tokens
LONGEST_MATCH = 8  # tokens; longer ones count as these do


@dataclass(frozen=True)
class Texts:
    """Some sequences, padded at their ends to the same length."""

    ids: torch.Tensor  # [texts, places] int64
    lengths: torch.Tensor  # [texts]
    prompts: torch.Tensor  # [texts], tokens that the target did not write
    final: torch.Tensor  # [texts, places, hidden], the target's residual stream after its last layer
    at: tuple[torch.Tensor, ...]  # the same entering each layer that the head reads
    pointed: (
        torch.Tensor
    )  # [texts, places] int64, what followed the longest earlier match of the text up to here; -1: no match
    matched: torch.Tensor  # [texts, places] int64, tokens of that match, at most LONGEST_MATCH

    def to(self, device: torch.device) -> Texts:
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return Texts(**moved, at=tuple(stream.to(device) for stream in self.at))


@dataclass(frozen=True)
class Outcome:
    """What the head made of some texts: the loss, or what was measured."""

    loss: torch.Tensor
    guesses: list[torch.Tensor]  # per step [texts, chains], by the place a chain starts from
    tested: torch.Tensor  # [steps] chains that come this far, all guesses before being right
    right: torch.Tensor  # [steps] those whose guess here is right too

    @property
    def mean_accepted(self) -> float:
        """Guesses in a row that are right, of as many as there are steps."""
        return float((self.right / self.tested[0].clamp(min=1)).sum())


class HeadTraining:
    """Meant to be called under ``with device``. The head's weights (``weights``, float32, to be optimised) and what it
    takes from the target, which stays as it is."""

    def __init__(
        self,
        shape: ModelShape,
        target: Checkpoint,
        reads: Sequence[int],
        vocabulary: torch.Tensor,
        fuse_width: int,
        device: torch.device = CPU,
    ) -> None:
        """
        Args:
            shape: the target's.
            target: its weights.
            reads: layers of the target whose keys and values the head's layers read, one each; they also start as
                copies of those.
            vocabulary: [n] int64, tokens that can be guessed.
            fuse_width: hidden units of the curved part of fusing.
            device: where to train.
        """
        self.shape, self.reads, self.vocabulary, self.device = shape, tuple(reads), vocabulary.to(device), device
        hidden = shape.hidden

        def take(name: str, *expected: int) -> torch.Tensor:
            return target.get(name, expected).float().clone().to(device)

        self.embedding = take("model.embed_tokens.weight", shape.vocab, hidden)
        head = self.embedding if shape.tied else take("lm_head.weight", shape.vocab, hidden)
        self.head = head[self.vocabulary]
        self.place = torch.full((shape.vocab,), -1, device=device)
        self.place[self.vocabulary] = torch.arange(len(self.vocabulary), device=device)
        self.whole_head = head
        self.target_norm = take(NORM, hidden)
        self.layers = [_layer(shape, take, f"model.layers.{number}.") for number in reads]
        self.weights = {
            FUSE: torch.zeros(hidden, 2 * hidden),
            FUSE_UP: torch.randn(fuse_width, 2 * hidden, generator=torch.Generator().manual_seed(0))
            * (2 * hidden) ** -0.5,
            FUSE_DOWN: torch.zeros(hidden, fuse_width),
            HIDDEN_NORM: self.target_norm.clone(),
            TOKEN_NORM: torch.ones(hidden),
            NORM: self.target_norm.clone(),
            POINTER: torch.full((LONGEST_MATCH + 1,), -2.0),
        }
        for number, layer in enumerate(self.layers):
            self.weights |= {f"model.layers.{number}.{name}": tensor.clone() for name, tensor in layer.items()}
        self.weights = {name: tensor.to(device) for name, tensor in self.weights.items()}
        self.rope = Rope(shape, min(shape.max_position, LONGEST_TEXT), device, torch.float32)

    def start_from_least_squares(self, texts: Sequence[Texts]) -> None:
        """Set the fusing weights so that the first layer gets, as well as a linear map can, what it got in the
        target."""
        width = 2 * self.shape.hidden
        gram, moment = torch.zeros(width, width), torch.zeros(width, self.shape.hidden)
        for text in texts:
            inputs = self._inputs(text.final[:, :-1], text.ids[:, 1:])
            real = _valid(text)[:, 1:]
            x, y = inputs[real], text.at[0][:, 1:][real].float()
            common = (
                y.norm(dim=-1) < 10 * y.norm(dim=-1).median()
            )  # a text's first places have streams hundreds of times longer
            gram += x[common].T @ x[common]
            moment += x[common].T @ y[common]
        gram += 1e-2 * gram.diagonal().mean() * torch.eye(width)
        self.weights[FUSE].copy_(torch.linalg.solve(gram, moment).T)

    def outcome(self, text: Texts, steps: int, measure: bool = False) -> Outcome:
        """Loss of the guesses of all chains, or with ``measure`` how far they go where the text is what the target
        would say."""
        valid = _valid(text)
        places = text.ids.shape[1]
        counts = torch.arange(places) >= _written(text)[:, None] - 1  # prompts are easier to guess, and nobody has to
        first = 0 if measure else int(counts.sum(-1).max().neg()) + places  # chains before it count for no text
        with torch.no_grad():
            features = _norm(text.final.float(), self.target_norm, self.shape.norm_eps)
            wanted = features @ self.head.T  # of the token after each place
            said = _most_likely(features, self.whole_head) if measure else torch.zeros_like(text.ids)
            keys = [self._target_keys(i, stream) for i, stream in enumerate(text.at)]
        carried = text.final[:, first:].float()
        own: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in self.reads]
        loss = torch.zeros(())
        alive = torch.arange(places) >= text.prompts[:, None] - 1
        guesses, tested, right = [], [], []
        for step in range(1, steps + 1):
            ids = _shifted(text.ids, step)
            fused = self._inputs(carried, ids[:, first:])
            x = F.linear(fused, self.weights[FUSE])
            x = x + F.linear(F.silu(F.linear(fused, self.weights[FUSE_UP])), self.weights[FUSE_DOWN])
            positions = (torch.arange(first, places) + step).clamp(max=len(self.rope.table) - 1)
            for number in range(len(self.reads)):
                x = self._layer(number, x, positions, keys[number], own[number])
            carried = x
            normed = _norm(x, self.weights[NORM], self.shape.norm_eps)
            there = _shifted(valid, step)  # the target computed the place whose successor is guessed
            if not measure:
                trained = there & counts
                loss = loss + self._divergence(
                    normed[trained[:, first:]],
                    _shifted(wanted, step)[trained],
                    _shifted(text.pointed, step)[trained],
                    _shifted(text.matched, step)[trained],
                )
                continue
            alive = alive & there & (_shifted(said, step - 1) == ids)  # so far the text is what the target says
            tested.append(alive.sum())
            guesses.append(self._guessed(normed, _shifted(text.pointed, step), _shifted(text.matched, step)))
            alive = alive & (guesses[-1] == _shifted(said, step))
            right.append(alive.sum())
        if not measure:
            return Outcome(loss / steps, [], torch.zeros(steps), torch.zeros(steps))
        return Outcome(loss, guesses, torch.stack(tested), torch.stack(right))

    def _guessed(self, normed: torch.Tensor, pointed: torch.Tensor, matched: torch.Tensor) -> torch.Tensor:
        """The most likely tokens [texts, chains]."""
        laws = (normed @ self.head.T).float().softmax(-1)
        likely, at = laws.max(-1)
        place, odds = self.place[pointed.clamp(min=0)], self.weights[POINTER].exp()[matched] * (matched > 0)
        there = laws.gather(-1, place.clamp(min=0)[..., None])[..., 0] * (place >= 0)
        return torch.where((matched > 0) & (there + odds > likely), pointed, self.vocabulary[at])

    def _divergence(
        self, normed: torch.Tensor, wanted: torch.Tensor, pointed: torch.Tensor, matched: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy of the guesses from ``normed`` [places, hidden], mixed with what is pointed at, against
        ``wanted`` [places, vocabulary].

        The mean of the places. The output matrix is not trained, so the gradient is computed here, without keeping
        logits for it. With p the layers' law, s the pointer's share and c the token pointed at, the mixture is (1 - s)
        p, and s more at c. Tokens that the layers cannot guess are not pointed at here: how likely the target found
        them is not known.
        """
        with torch.no_grad():
            laws = (normed @ self.head.T).float().log_softmax(-1)
            goal = wanted.float().softmax(-1)
            c = self.place[pointed.clamp(min=0)][:, None]
            points = (matched > 0) & (c[:, 0] >= 0)
            c = c.clamp(min=0)
            share = self.weights[POINTER][matched].sigmoid() * points
            goal_c, p_c = goal.gather(-1, c)[:, 0], laws.gather(-1, c)[:, 0].exp()
            mixed_c = (1 - share) * p_c + share
            owed = ((1 - share) * p_c / mixed_c).where(points, 1.0)  # how much of c is the layers' saying
            value = -(goal * laws).sum(-1) - (1 - goal_c) * torch.log1p(-share)
            value = value - goal_c * (mixed_c.log() - laws.gather(-1, c)[:, 0]).where(points, 0.0)
            by_share = share * (1 - goal_c) - goal_c * share * (1 - share) * (1 - p_c) / mixed_c
            goal = goal.scatter(-1, c, (goal_c * owed)[:, None])
            pull = (laws.exp_().mul_(goal.sum(-1, keepdim=True)) - goal).div_(len(goal)).to(wanted.dtype) @ self.head
        odds = self.weights[POINTER][matched]
        through = ((normed - normed.detach()) * pull).sum() + ((odds - odds.detach()) * by_share).sum() / len(goal)
        return value.mean() + through

    def _inputs(self, carried: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        eps, weights = self.shape.norm_eps, self.weights
        token = _norm(F.embedding(ids, self.embedding), weights[TOKEN_NORM], eps)
        return torch.cat((_norm(carried.float(), weights[HIDDEN_NORM], eps), token), -1)

    def _target_keys(self, number: int, stream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [texts, kv_heads, places, head_dim] that lie in the target's cache."""
        layer = self.layers[number]
        x = _norm(stream.float(), layer["input_layernorm.weight"], self.shape.norm_eps)
        _, k, v = self._qkv(layer, x, torch.arange(stream.shape[1]))
        return k.transpose(1, 2), v.transpose(1, 2)

    def _layer(
        self,
        number: int,
        x: torch.Tensor,
        positions: torch.Tensor,
        target: tuple[torch.Tensor, torch.Tensor],
        own: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> torch.Tensor:
        """One layer for step ``len(own) + 1`` of every chain: x [texts, chains, hidden]; chains start from the last
        places of the texts."""
        at, shape = f"model.layers.{number}.", self.shape
        weights = {name.removeprefix(at): tensor for name, tensor in self.weights.items() if name.startswith(at)}
        q, k, v = self._qkv(weights, _norm(x, weights["input_layernorm.weight"], shape.norm_eps), positions)
        own.append((k, v))
        texts, chains = x.shape[:2]
        group = shape.heads // shape.kv_heads
        grouped = q.view(texts, chains, shape.kv_heads, group, shape.head_dim)
        flat = grouped.permute(0, 2, 3, 1, 4).flatten(2, 3)  # [texts, kv_heads, group * chains, head_dim]
        places = target[0].shape[2]
        hidden = torch.ones(chains, places, dtype=torch.bool).triu(1 + places - chains).repeat(group, 1)
        far = (flat @ target[0].transpose(-1, -2)).float().masked_fill(hidden, float("-inf"))
        far = far.view(texts, shape.kv_heads, group, chains, places)
        near = [torch.einsum("tckgd,tckd->tkgc", grouped, key).float() for key, _ in own]
        scores = torch.cat((far, torch.stack(near, -1)), -1) * shape.head_dim**-0.5
        share = scores.softmax(-1)
        seen = share[..., :places].flatten(2, 3).to(target[1].dtype) @ target[1]
        seen = seen.view(texts, shape.kv_heads, group, chains, -1).permute(0, 3, 1, 2, 4)
        for step, (_, value) in enumerate(own):
            seen = seen + share[..., places + step].permute(0, 3, 1, 2)[..., None] * value[:, :, :, None]
        x = x + _linear(weights, "self_attn.o_proj", seen.flatten(2))
        y = _norm(x, weights["post_attention_layernorm.weight"], shape.norm_eps)
        gate, up = _linear(weights, "mlp.gate_proj", y), _linear(weights, "mlp.up_proj", y)
        return x + _linear(weights, "mlp.down_proj", F.silu(gate) * up)

    def _qkv(
        self, layer: dict[str, torch.Tensor], x: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[texts, places, heads, head_dim] each; queries and keys rotated."""
        shape = self.shape
        parts = []
        for name, heads in (("q", shape.heads), ("k", shape.kv_heads), ("v", shape.kv_heads)):
            part = _linear(layer, f"self_attn.{name}_proj", x).unflatten(-1, (heads, shape.head_dim))
            if name != "v":
                if shape.qk_norm:
                    part = _norm(part, layer[f"self_attn.{name}_norm.weight"], shape.norm_eps)
                cos, sin = (table[None] for table in self.rope.at(positions))
                part = torch.addcmul(part.float() * cos, part.float().roll(shape.head_dim // 2, -1), sin)
            parts.append(part)
        return parts[0], parts[1], parts[2]


def _layer(shape: ModelShape, take, at: str) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
    """A layer's weights by the names they have in checkpoints."""
    hidden, width = shape.hidden, shape.intermediate
    matrices = {
        "self_attn.q_proj": (shape.q_width, hidden, shape.qkv_bias),
        "self_attn.k_proj": (shape.kv_width, hidden, shape.qkv_bias),
        "self_attn.v_proj": (shape.kv_width, hidden, shape.qkv_bias),
        "self_attn.o_proj": (hidden, shape.q_width, shape.output_bias),
        "mlp.gate_proj": (width, hidden, shape.mlp_bias),
        "mlp.up_proj": (width, hidden, shape.mlp_bias),
        "mlp.down_proj": (hidden, width, shape.mlp_bias),
    }
    weights = {}
    for name, (outputs, inputs, biased) in matrices.items():
        weights[f"{name}.weight"] = take(f"{at}{name}.weight", outputs, inputs)
        if biased:
            weights[f"{name}.bias"] = take(f"{at}{name}.bias", outputs)
    vectors = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    if shape.qk_norm:
        vectors |= {"self_attn.q_norm": shape.head_dim, "self_attn.k_norm": shape.head_dim}
    return weights | {f"{name}.weight": take(f"{at}{name}.weight", size) for name, size in vectors.items()}


def _linear(weights: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps) * weight


def _shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    """Place t holds what place t + by held; zeros beyond the end."""
    return torch.cat((x[:, by:], torch.zeros_like(x[:, :by])), 1) if by else x


def _valid(text: Texts) -> torch.Tensor:
    return torch.arange(text.ids.shape[1]) < text.lengths[:, None]


def _written(text: Texts) -> torch.Tensor:
    """[texts], the first place that the target wrote; the whole of a text that it only read counts as written."""
    return torch.where(text.prompts < text.lengths, text.prompts, 1)


def _most_likely(features: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    return torch.cat([(part @ head.T).argmax(-1) for part in features.split(1)])
