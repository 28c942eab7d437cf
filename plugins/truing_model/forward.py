"""Pieces of a step to what a loss reads: one pass through the layers, and as many heads on it as are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truing.fields import (
    COLLISION_ENTROPY,
    ENTROPY,
    GROUP,
    HEARD,
    HEARD_BEFORE,
    IDS,
    LOGPROBS,
    MEMBER_SCORES,
    NORMAL_SCORES,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    SCORES,
    SEQ,
    STEP_END,
    STEP_LOGITS,
    STEP_SCORES,
    TASTES,
    TOKENS,
    TRAITS,
    VALUES,
    Batch,
    Field,
    Fields,
    fields,
)
from truing_model.dropout import LUCK, Places, attention_dropout, drop_by_place
from truing_model.head import OfTokens, token_logprobs
from truing_model.layout import Row, plain_rows, shared_row
from truing_tensor.decoder import Decoder, plain_head
from truing_tensor.products import filled
from truing_tensor.spans import Plan, joined

HEADS: Mapping[Field[Tensor], str] = {
    VALUES: "value",
    SCORES: "score",
    MEMBER_SCORES: "score",
    TRAITS: "score",
    NORMAL_SCORES: "score",
    TASTES: "tastes",
    STEP_SCORES: "step",
    STEP_LOGITS: "step",
}
"""What the head that gives a field is called."""
OF_TOKENS = fields(LOGPROBS, ENTROPY, COLLISION_ENTROPY, VALUES)
"""What is read off the positions that predict a completion token."""
OF_COMPLETIONS = fields(SCORES, MEMBER_SCORES, TRAITS, NORMAL_SCORES)
"""What is read off the last token of a completion."""
OF_STEPS = fields(STEP_SCORES, STEP_LOGITS)
"""What is read off the last token of a step."""
SEVERAL = fields(MEMBER_SCORES, TRAITS, NORMAL_SCORES, STEP_LOGITS)
"""Where one number is not all."""
SEAT: Field[Tensor] = Field("seat", "pair", "int64")
"""The place of who compared a pair in the table of tastes; -1: nobody who is known."""

READS = fields(IDS, GROUP, PROMPT_TOKENS, PROMPT_GROUP, TOKENS, SEQ, HEARD, HEARD_BEFORE, STEP_END, SEAT, LUCK)
"""What a network looks at of a piece."""


class Network(nn.Module):
    """A model behind one door: a piece of a step in, the wanted fields out.

    model: of transformers, or peft's wrapper of one. decoder: how a shared row goes through it; None: one completion at
    a time, as transformers does. heads: linear heads on the last hidden states, by their names in HEADS.
    gives: LOGPROBS, ENTROPY and COLLISION_ENTROPY [token] in nats, VALUES [token], SCORES [seq] and MEMBER_SCORES
    [seq, member], TRAITS and NORMAL_SCORES read off the last token of a completion, TASTES [pair] where the batch has
    SEAT, STEP_SCORES [step] and STEP_LOGITS [step, 3] read off the last token of a step. bf16: compute in bfloat16,
    whatever the type of the weights.
    """

    def __init__(
        self, model: nn.Module, decoder: Decoder | None, heads: Mapping[str, nn.Module], gives: Fields, bf16: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.heads = nn.ModuleDict(dict(heads))
        self.gives = gives
        self.bf16 = bf16
        self._decoder = decoder
        self._places = Places()
        if decoder:
            drop_by_place(model, decoder, self._places)
        self._plain_head = LOGPROBS in gives and plain_head(self.base) is not None

    @property
    def base(self) -> Any:
        """The model of transformers itself, adapters inside."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def call_layers(self) -> bool:
        """From now on call each layer as the module it is; whether each is called once a piece, and not for every
        completion."""
        if self._decoder:
            self._decoder.call_layers()
        return self._decoder is not None

    def forward(self, batch: Batch) -> Batch:
        """What the network gives of a piece. Only what some head reads is computed in the last layer."""
        device = next(self.parameters()).device
        rows = [shared_row(batch)] if self._decoder else plain_rows(batch)
        starts = accumulate((len(row.targets) for row in rows), initial=0)
        ends = batch[STEP_END].tolist() if self.gives & OF_STEPS else []
        lucks = batch[LUCK][:, 0].tolist() if LUCK in batch else []
        self._places.put(batch, device)
        found: list[dict[Field[Tensor], Tensor]] = []
        for at, (start, row) in enumerate(zip(starts, rows, strict=False)):
            if lucks:
                torch.manual_seed(lucks[at])
            steps = [end - start for end in ends if start <= end < start + len(row.targets)]
            found.append(self._row(row, row.said[steps].tolist(), device))
        whole = {key: torch.cat([part[key] for part in found]) for key in found[0]}
        if TASTES in self.gives and SEAT in batch:
            whole[TASTES] = self.heads[HEADS[TASTES]](batch[SEAT].to(device))
        return Batch(whole)

    def predicting(self, row: Row, device: torch.device) -> Tensor:
        """The hidden states that predict the completion tokens of a row, [token, width]."""
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            hidden = self._hidden(row, row.plan.predictors.to(device), device)
        return hidden if len(row.said) == len(hidden) else hidden[row.said.to(device)]

    def _row(self, row: Row, steps: list[int], device: torch.device) -> dict[Field[Tensor], Tensor]:
        plans = {
            "tokens": row.plan.predictors if self.gives & OF_TOKENS else None,
            "ends": row.plan.ends() if self.gives & OF_COMPLETIONS else None,
            "steps": row.plan.at(steps) if self.gives & OF_STEPS else None,
        }
        asked = {name: plan for name, plan in plans.items() if plan is not None}
        last = joined(list(asked.values())).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            hidden = self._hidden(row, last, device)
        at = dict(zip(asked, hidden.split([len(plan.rows) for plan in asked.values()]), strict=True))
        if "tokens" in at and len(row.said) < len(at["tokens"]):
            at["tokens"] = at["tokens"][row.said.to(device)]
        found: dict[Field[Tensor], Tensor] = {}
        if LOGPROBS in self.gives:
            found |= self._of_vocabulary(row, at["tokens"], device)
        for some, read in ((fields(VALUES), "tokens"), (OF_COMPLETIONS, "ends"), (OF_STEPS, "steps")):
            for field in some & self.gives:
                head = self.heads[HEADS[field]]
                numbers = head(at[read].to(_type_of(head))).float()
                found[field] = numbers if field in SEVERAL else numbers[:, 0]
        return found

    def _hidden(self, row: Row, last: Plan, device: torch.device) -> Tensor:
        tokens, positions = row.tokens.to(device), row.positions.to(device)
        if self._decoder:
            plan, asked = row.plan.all.to(device), last.filled()
            self._places.ask(asked.rows)
            return self._decoder(filled(tokens), filled(positions), plan, asked)[: len(last.rows)]
        return self.base.get_decoder()(input_ids=tokens[None], use_cache=False).last_hidden_state[0, last.rows]

    def _of_vocabulary(self, row: Row, hidden: Tensor, device: torch.device) -> dict[Field[Tensor], Tensor]:
        """LOGPROBS of the completion tokens, and the entropies that are wanted."""
        targets = row.targets.to(device)
        entropy, collision = ENTROPY in self.gives, COLLISION_ENTROPY in self.gives
        if self._plain_head:
            weight = self.base.get_output_embeddings().weight
            compute = torch.bfloat16 if self.bf16 else weight.dtype
            found = token_logprobs(hidden, weight, targets, compute, with_entropy=entropy, with_collision=collision)
        else:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                inputs = {"input_ids": row.tokens[None].to(device), "use_cache": False}
                logits = (
                    self.model(**inputs, logits_to_keep=row.plan.predictors.rows[row.said].to(device)).logits[0].float()
                )
            logprobs = -cross_entropy(logits, targets, reduction="none")
            found = OfTokens(
                logprobs,
                torch.distributions.Categorical(logits=logits).entropy() if entropy else logprobs,
                -logits.detach().log_softmax(1).mul_(2).logsumexp(1) if collision else logprobs,
            )
        named = zip((LOGPROBS, ENTROPY, COLLISION_ENTROPY), found, strict=True)
        return {field: values for field, values in named if field in self.gives}


def decoder_for(model: Any, layout: str, max_tokens: int) -> Decoder | None:
    """How shared rows go through a model; None if it is to have plain rows.

    Asked of the model itself: whether it gives the same numbers in a shared row as one completion at a time. What a
    short question cannot show is read off its configuration: a window of attention shorter than `max_tokens`, dropout
    of attention weights, a head that is more than a matrix. Raises ValueError when `layout` is "shared" and cannot be.
    """
    if layout == "plain":
        return None
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    dropout = attention_dropout(model)
    head = getattr(model, "lm_head", None)
    reason = ""
    if window and window < max_tokens:
        reason = f"its attention window is {window} tokens, and max_tokens is {max_tokens}"
    elif dropout:
        reason = f"it drops attention weights ({dropout})"
    elif head is not None and plain_head(model) is None:
        reason = "it does more to its logits than one matrix product"
    else:
        try:
            return Decoder(model)
        except ValueError as error:
            reason = str(error)
    if layout == "shared":
        raise ValueError(reason)
    return None


def _type_of(head: nn.Module) -> torch.dtype:
    return next(head.parameters()).dtype
