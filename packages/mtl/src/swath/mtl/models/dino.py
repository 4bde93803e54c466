"""The detection head: DINO's two-stage query selection, decoder, denoising and losses.

Paper: Zhang et al. 2023, "DINO: DETR with Improved DeNoising Anchor Boxes"; its use here: RSCoTr,
Li et al. 2024, 10.1109/TGRS.2024.3354783.
Official code: https://github.com/Li-Qingyun/RSCoTr, `models/multi/bbox_head`.
Departs: an image with fewer tokens than queries gets as many queries as it has tokens; training
runs on a CPU as well.

Boxes inside are cx, cy, w, h in 0..1 of the image's own size (not the batch's); those that come in
and go out are x1, y1, x2, y2 in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import (
    box_convert,
    generalized_box_iou,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from swath.core.structures import Detections
from swath.mtl.models.encoder import Features, Memory
from swath.mtl.models.heads import Head
from swath.mtl.models.layers import (
    MSDeformAttention,
    Shape,
    feed_forward,
    inverse_sigmoid,
    mlp,
    sine_code,
)

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
COST_CLASS, COST_L1, COST_GIOU = 2.0, 5.0, 2.0
WEIGHT_L1, WEIGHT_GIOU = 5.0, 2.0  # the class's isn't its cost, on purpose: see class_weight


class Objects(NamedTuple):
    """The objects of one image.

    Attributes:
        boxes: ``(N, 4)`` x1, y1, x2, y2 in pixels.
        labels: int64 ``(N,)``.
    """

    boxes: Tensor
    labels: Tensor


class Noise(NamedTuple):
    """The random numbers of one call of `ContrastiveDenoising`; N noised boxes, positives first.

    Attributes:
        label_draw: ``(N,)`` in 0..1; a label is replaced where it is below half the label noise.
        new_label: int64, one for each label that is replaced.
        sign: 0 or 1, ``(N, 4)``: which way a side is moved.
        part: ``(N, 4)`` in 0..1: how far.
    """

    label_draw: Tensor
    new_label: Tensor
    sign: Tensor
    part: Tensor


@dataclass(frozen=True)
class DenoisingQueries:
    """Noised objects as queries; group after group, each of ``width`` positives and negatives.

    Attributes:
        content: ``(B, P, C)``.
        reference: ``(B, P, 4)`` logits of boxes.
        blocked: bool ``(P + Q, P + Q)``: True where a query may not look at another.
        groups: Number of groups; P = 2 * width * groups.
        width: Most objects that an image of the batch has.
    """

    content: Tensor
    reference: Tensor
    blocked: Tensor
    groups: int
    width: int


class ContrastiveDenoising:
    """Makes queries of the true objects, slightly and grossly displaced.

    Args:
        num_queries: About so many pairs, shared out to groups of all objects.
        label_noise: Twice the share of labels that are replaced by random ones.
        box_noise: How far sides move: up to so many half sizes (positives), and as much again
            (negatives).

    Source:
        Zhang et al. 2023 (DINO), section 3.3; RSCoTr dossier 1.4.
    """

    def __init__(
        self, num_queries: int = 100, label_noise: float = 0.5, box_noise: float = 1.0
    ) -> None:
        self.num_queries = num_queries
        self.label_noise, self.box_noise = label_noise, box_noise

    def __call__(
        self,
        targets: Sequence[Objects],
        sizes: Sequence[Shape],
        embedding: nn.Embedding,
        matching: int,
        noise: Noise | None = None,
    ) -> DenoisingQueries | None:
        """Queries for a batch, or None if it holds no object.

        Args:
            targets: Objects of each image.
            sizes: Height and width of each image.
            embedding: Content of a query by its label.
            matching: Number Q of matching queries that follow.
            noise: What to draw; None draws.
        """
        width = max(len(objects.labels) for objects in targets)
        if not width:
            return None
        groups = max(1, self.num_queries // width)
        boxes = torch.cat(
            [normalised(t.boxes, size) for t, size in zip(targets, sizes, strict=True)]
        )
        labels = torch.cat([t.labels for t in targets])
        boxes, labels = boxes.repeat(2 * groups, 1), labels.repeat(2 * groups)
        noise = noise or self.draw(len(labels), embedding.num_embeddings, labels.device)
        labels = labels.masked_scatter(noise.label_draw < self.label_noise / 2, noise.new_label)
        boxes = self._moved(boxes, noise, groups)
        # object i of image b in half-group g goes to place g * width + i of row b
        counts = [len(objects.labels) for objects in targets]
        image = torch.cat([torch.full((n,), b) for b, n in enumerate(counts)]).repeat(2 * groups)
        inside = torch.cat([torch.arange(n) for n in counts])
        place = (torch.arange(2 * groups)[:, None] * width + inside).flatten()
        padded = (len(targets), 2 * groups * width)
        content = boxes.new_zeros(*padded, embedding.embedding_dim)
        reference = boxes.new_zeros(*padded, 4)
        at = image.to(boxes.device), place.to(boxes.device)
        content = content.index_put(at, embedding(labels).to(content.dtype))
        reference[at] = inverse_sigmoid(boxes)
        blocked = _blocked(groups, 2 * width, matching).to(boxes.device)
        return DenoisingQueries(content, reference, blocked, groups, width)

    def draw(self, count: int, num_classes: int, device: torch.device) -> Noise:
        """Random numbers for so many noised objects."""
        label_draw = torch.rand(count, device=device)
        chosen = int((label_draw < self.label_noise / 2).sum())
        return Noise(
            label_draw,
            torch.randint(num_classes, (chosen,), device=device),
            torch.randint(2, (count, 4), device=device),
            torch.rand(count, 4, device=device),
        )

    def _moved(self, boxes: Tensor, noise: Noise, groups: int) -> Tensor:
        """Displace the corners; the second half of each group further."""
        corners = box_convert(boxes, "cxcywh", "xyxy")
        far = torch.tensor([0.0, 1.0], device=boxes.device).repeat(groups)
        far = far.repeat_interleave(len(boxes) // (2 * groups))[:, None]
        way = (noise.part + far) * (noise.sign * 2.0 - 1.0)
        corners = corners + way * boxes[:, 2:].repeat(1, 2) / 2 * self.box_noise
        moved: Tensor = box_convert(corners.clamp(0, 1), "xyxy", "cxcywh")
        return moved


def _blocked(groups: int, group: int, matching: int) -> Tensor:
    """Groups don't see one another, and matching queries see no denoising ones."""
    pad = groups * group
    number = torch.arange(pad + matching) // group
    number[pad:] = groups
    return (number[:, None] != number) & (torch.arange(pad + matching) < pad)


class Proposals(NamedTuple):
    """The tokens that are most likely objects, as the first stage sees them.

    Attributes:
        proposals: ``(B, S, 4)`` logits of every token's default box, infinite where it can't be.
        scores: ``(B, S)``, highest class logit of every token.
        tokens: int64 ``(B, Q)``: which were chosen.
        logits: ``(B, Q, K)`` of these.
        anchors: ``(B, Q, 4)`` logits of their boxes.
    """

    proposals: Tensor
    scores: Tensor
    tokens: Tensor
    logits: Tensor
    anchors: Tensor


class DecoderStates(NamedTuple):
    """What the decoder's L layers leave behind.

    Attributes:
        states: ``(L, B, Q, C)``, normed.
        references: ``(L + 1, B, Q, 4)``: boxes that each layer starts from, and the last ones.
    """

    states: Tensor
    references: Tensor


class DINOOutput(NamedTuple):
    """Class logits ``(L, B, Q, K)`` and boxes ``(L, B, Q, 4)`` of every layer."""

    logits: Tensor
    boxes: Tensor


class DINODecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention and a feed-forward network, each with its norm."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = MSDeformAttention(dim, heads, levels, points)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = feed_forward(dim, hidden)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        reference: Tensor,
        memory: Memory,
        blocked: Tensor | None,
    ) -> Tensor:
        """Queries ``(B, Q, C)`` that have seen one another and the memory.

        Args:
            query: ``(B, Q, C)``.
            query_pos: ``(B, Q, C)``.
            reference: ``(B, Q, L, 4)``, in units of each level.
            memory: Of the encoder.
            blocked: bool ``(Q, Q)`` or None.
        """
        placed = query + query_pos
        attended = self.self_attn(placed, placed, query, attn_mask=blocked, need_weights=False)[0]
        query = self.norm1(query + attended)
        attended = self.cross_attn(
            query + query_pos, memory.tokens, reference, memory.shapes, memory.padding
        )
        query = self.norm2(query + attended)
        out: Tensor = self.norm3(query + self.ffn(query))
        return out


class DINOHead(Head):
    """Objects as boxes.

    Args:
        num_classes: K.
        num_queries: Q.
        dim: Channels C.
        depth: Decoder layers.
        heads: Attention heads.
        levels: Levels of the pyramid.
        points: Points read of each level by a head of a query.
        hidden: Width of the feed-forward networks.
        max_per_image: Most objects that are returned.
        dn_queries: See `ContrastiveDenoising`; 0 trains without denoising.
        label_noise: See `ContrastiveDenoising`.
        box_noise: See `ContrastiveDenoising`.
        sync_normaliser: Divide losses by the mean number of objects over all processes, as
            officially; False: by this process's own.
        class_weight: Of the losses about classes; published: 1. Boxes have 5 and 2.

    Source:
        RSCoTr dossier 1.4.
    """

    def __init__(
        self,
        num_classes: int = 20,
        num_queries: int = 600,
        dim: int = 256,
        depth: int = 6,
        heads: int = 8,
        levels: int = 4,
        points: int = 4,
        hidden: int = 2048,
        max_per_image: int = 300,
        dn_queries: int = 100,
        label_noise: float = 0.5,
        box_noise: float = 1.0,
        sync_normaliser: bool = True,
        class_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.max_per_image = num_classes, max_per_image
        self.sync_normaliser, self.class_weight = sync_normaliser, class_weight
        denoising = ContrastiveDenoising(dn_queries, label_noise, box_noise)
        self.denoising = denoising if dn_queries else None
        self.level_embed = nn.Parameter(torch.randn(levels, dim))
        self.enc_output = nn.Linear(dim, dim)
        self.enc_output_norm = nn.LayerNorm(dim)
        self.query_embed = nn.Embedding(num_queries, dim)
        self.layers = nn.ModuleList(
            DINODecoderLayer(dim, heads, levels, points, hidden) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.ref_point_head = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, dim)
        )
        # the last of each belongs to the encoder's tokens
        self.cls_branches = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(depth + 1))
        self.reg_branches = nn.ModuleList(mlp(dim, 4) for _ in range(depth + 1))
        self.label_embedding = nn.Embedding(num_classes, dim)
        self._initialise()

    def _initialise(self) -> None:
        for name, weight in self.layers.named_parameters():
            if weight.ndim > 1 and "cross_attn" not in name:  # that knows how to begin
                nn.init.xavier_uniform_(weight)
        for linear in (self.enc_output, self.ref_point_head[0], self.ref_point_head[2]):
            nn.init.xavier_uniform_(linear.weight)  # type: ignore[arg-type]
        for branch in self.cls_branches:
            nn.init.constant_(branch.bias, -math.log((1 - 0.01) / 0.01))  # type: ignore[arg-type]
        for branch in self.reg_branches:
            nn.init.zeros_(branch[-1].weight)  # type: ignore[index]
            nn.init.zeros_(branch[-1].bias)  # type: ignore[index]

    def forward(self, features: Features) -> list[Detections]:
        """What the images show; boxes in pixels of the batch, within each image's own size."""
        memory = self.memory(features)
        chosen = self.propose(memory)
        states = self.decode(memory, self.content(chosen), chosen.anchors.detach(), None)
        output = self.predict(states)
        return self.detect(output.logits[-1], output.boxes[-1], features.sizes)

    def memory(self, features: Features) -> Memory:
        """Tokens of the shared encoder, finest level first."""
        return features.encoder.fine_first(features.pyramid, features.padding, self.level_embed)

    def propose(self, memory: Memory) -> Proposals:
        """Score every token as an object, and choose the Q best.

        Source:
            Zhu et al. 2021 (Deformable DETR), two-stage variant; DINO's mixed query selection.
        """
        proposals, usable = default_boxes(memory)
        tokens = self.enc_output_norm(self.enc_output(memory.tokens * usable))
        logits = self.cls_branches[-1](tokens)
        boxes = self.reg_branches[-1](tokens) + proposals
        scores = logits.amax(-1)
        index = scores.topk(min(self.query_embed.num_embeddings, scores.shape[1]), dim=1).indices
        return Proposals(proposals, scores, index, _taken(logits, index), _taken(boxes, index))

    def content(self, chosen: Proposals) -> Tensor:
        """Learned queries ``(B, Q, C)``, as many as tokens were chosen."""
        batch, queries = chosen.tokens.shape
        return self.query_embed.weight[:queries].expand(batch, -1, -1)

    def decode(
        self, memory: Memory, query: Tensor, anchors: Tensor, blocked: Tensor | None
    ) -> DecoderStates:
        """Refine queries and their boxes layer by layer.

        Args:
            memory: Of the encoder.
            query: ``(B, Q, C)``.
            anchors: ``(B, Q, 4)`` logits of the boxes to begin with.
            blocked: bool ``(Q, Q)``, who may not look at whom, or None.
        """
        reference = anchors.sigmoid()
        references, states = [reference], []
        ratios = memory.valid_ratios.repeat(1, 1, 2)[:, None]
        for number, layer in enumerate(self.layers):
            placed = reference[:, :, None] * ratios
            query_pos = self.ref_point_head(box_code(placed[:, :, 0], query.shape[2] // 2))
            query = layer(query, query_pos, placed, memory, blocked)
            # boxes look forward twice: the next layer's loss reaches this layer's box
            moved = (self.reg_branches[number](query) + inverse_sigmoid(reference)).sigmoid()
            reference = moved.detach()
            states.append(self.norm(query))
            references.append(moved)
        return DecoderStates(torch.stack(states), torch.stack(references))

    def predict(self, decoded: DecoderStates) -> DINOOutput:
        """Classes and boxes after each layer."""
        logits, boxes = [], []
        for number, (state, reference) in enumerate(
            zip(decoded.states, decoded.references[:-1], strict=True)
        ):
            logits.append(self.cls_branches[number](state))
            moved = self.reg_branches[number](state) + inverse_sigmoid(reference)
            boxes.append(moved.sigmoid())
        return DINOOutput(torch.stack(logits), torch.stack(boxes))

    def detect(self, logits: Tensor, boxes: Tensor, sizes: Sequence[Shape]) -> list[Detections]:
        """The best of all pairs of query and class; no suppression.

        Args:
            logits: ``(B, Q, K)``.
            boxes: ``(B, Q, 4)``.
            sizes: Height and width of each image, in whose pixels the boxes come out.
        """
        found = []
        for scores, own, (height, width) in zip(
            logits.float().sigmoid(), boxes, sizes, strict=True
        ):
            count = min(self.max_per_image, scores.numel())
            top, index = scores.flatten().topk(count)
            query, label = index // self.num_classes, index % self.num_classes
            side = own.new_tensor([width, height, width, height])
            corners = box_convert(own[query].float(), "cxcywh", "xyxy") * side
            corners = torch.minimum(corners.clamp(min=0), side)
            found.append(Detections(corners, top, label))
        return found

    # --- training -----------------------------------------------------------------------------

    def losses(
        self, features: Features, targets: Sequence[Objects], noise: Noise | None = None
    ) -> dict[str, Tensor]:
        """All terms of DINO, ``cls``, ``bbox`` and ``iou`` each.

        Of the last layer without a prefix, of the others ``d0.`` to ``d4.``; ``dn_`` of denoising
        queries (0 in a batch without objects), ``interm_`` of the chosen tokens.

        Args:
            features: Of the batch.
            targets: Objects of each image; may be none.
            noise: For `ContrastiveDenoising`; None draws.
        """
        output, chosen, dn = self.train_forward(features, targets, noise)
        pad = dn.content.shape[1] if dn else 0
        logits, boxes = output.logits.float(), output.boxes.float()
        scene = Scene(targets, features.sizes, self.sync_normaliser, self.class_weight)
        losses: dict[str, Tensor] = {}
        names = [f"d{number}." for number in range(len(logits) - 1)] + [""]
        for name, layer_logits, layer_boxes in zip(names, logits, boxes, strict=True):
            matched = scene.match(layer_logits[:, pad:], layer_boxes[:, pad:])
            terms = scene.losses(layer_logits[:, pad:], layer_boxes[:, pad:], matched)
            losses |= {f"{name}loss_{term}": loss for term, loss in terms.items()}
            if dn:
                terms = scene.denoising_losses(layer_logits[:, :pad], layer_boxes[:, :pad], dn)
                losses |= {f"{name}dn_loss_{term}": loss for term, loss in terms.items()}
        first, anchors = chosen.logits.float(), chosen.anchors.float().sigmoid()
        terms = scene.losses(first, anchors, scene.match(first, anchors))
        losses |= {f"interm_loss_{term}": loss for term, loss in terms.items()}
        if self.denoising and not dn:  # nothing to noise: the same terms, and a gradient for DDP
            nothing = self.label_embedding.weight.sum() * 0
            losses |= {f"{n}dn_loss_{term}": nothing for n in names for term in terms}
        return losses

    def train_forward(
        self, features: Features, targets: Sequence[Objects], noise: Noise | None = None
    ) -> tuple[DINOOutput, Proposals, DenoisingQueries | None]:
        """Predictions of every layer, denoising queries first; the first stage; those queries."""
        memory = self.memory(features)
        chosen = self.propose(memory)
        query, anchors = self.content(chosen), chosen.anchors.detach()
        dn = None
        if self.denoising:
            dn = self.denoising(
                targets, features.sizes, self.label_embedding, query.shape[1], noise
            )
        if dn:
            query = torch.cat((dn.content.to(query.dtype), query), 1)
            anchors = torch.cat((dn.reference.to(anchors.dtype), anchors), 1)
        decoded = self.decode(memory, query, anchors, dn.blocked if dn else None)
        return self.predict(decoded), chosen, dn


class Scene:
    """The objects of a batch, to compare predictions with.

    Args:
        targets: Objects of each image.
        sizes: Height and width of each image.
        sync_normaliser: Whether counts are averaged over processes.
        class_weight: Of the losses about classes.
    """

    def __init__(
        self,
        targets: Sequence[Objects],
        sizes: Sequence[Shape],
        sync_normaliser: bool = True,
        class_weight: float = 1.0,
    ) -> None:
        self.targets = targets
        self.boxes = [normalised(t.boxes, size) for t, size in zip(targets, sizes, strict=True)]
        self.labels = torch.cat([t.labels for t in targets])
        sides = [[width, height, width, height] for height, width in sizes]
        self.sides = self.boxes[0].new_tensor(sides)
        self.sync_normaliser, self.class_weight = sync_normaliser, class_weight

    @torch.no_grad()
    def match(self, logits: Tensor, boxes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each image, which query is which object: the cheapest way to pair them all.

        Args:
            logits: ``(B, Q, K)``.
            boxes: ``(B, Q, 4)``.

        Returns:
            Of each image int64 queries and objects, ``(n,)`` both.
        """
        # every query with the objects of all images at once, of which each image takes its own
        image = torch.arange(len(boxes), device=boxes.device).repeat_interleave(boxes.shape[1])
        queries, truth = boxes.flatten(0, 1), torch.cat(self.boxes)
        probability = logits.flatten(0, 1).sigmoid()
        positive = FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * -(probability + 1e-12).log()
        negative = (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * -(1 - probability + 1e-12).log()
        overlap = generalized_box_iou(
            box_convert(queries, "cxcywh", "xyxy") * self.sides[image],
            torch.cat([objects.boxes for objects in self.targets]),
        )
        cost = COST_CLASS * (positive - negative)[:, self.labels]
        cost = cost + COST_L1 * torch.cdist(queries, truth, p=1) - COST_GIOU * overlap
        # a model that diverged is reported by its loss
        costs = cost.nan_to_num(1e6, 1e6, -1e6).view(*boxes.shape[:2], -1).cpu()
        own = costs.split([len(objects) for objects in self.boxes], dim=2)
        pairs = [linear_sum_assignment(per_image[i]) for i, per_image in enumerate(own)]
        device = logits.device
        return [(torch.from_numpy(q).to(device), torch.from_numpy(o).to(device)) for q, o in pairs]

    def losses(
        self, logits: Tensor, boxes: Tensor, matched: Sequence[tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """Terms ``cls``, ``bbox`` and ``iou`` of queries some of which are objects.

        Args:
            logits: ``(B, Q, K)``.
            boxes: ``(B, Q, 4)``.
            matched: Of each image queries and objects; all other queries are background.
        """
        images = torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(matched)])
        queries = torch.cat([q for q, _ in matched])
        truth = torch.cat([own[o] for own, (_, o) in zip(self.boxes, matched, strict=True)])
        labels = torch.cat([t.labels[o] for t, (_, o) in zip(self.targets, matched, strict=True)])
        count = self._count(len(queries))
        wanted = torch.zeros_like(logits)
        wanted[images, queries, labels] = 1.0
        focal = sigmoid_focal_loss(logits, wanted, FOCAL_ALPHA, FOCAL_GAMMA, reduction="sum")
        found = boxes[images, queries]
        side = self.sides[images]
        overlap = generalized_box_iou_loss(
            box_convert(found, "cxcywh", "xyxy") * side,
            box_convert(truth, "cxcywh", "xyxy") * side,
            reduction="sum",
        )
        return {
            "cls": self.class_weight * focal / count,
            "bbox": WEIGHT_L1 * F.l1_loss(found, truth, reduction="sum") / count,
            "iou": WEIGHT_GIOU * overlap / count,
        }

    def denoising_losses(
        self, logits: Tensor, boxes: Tensor, dn: DenoisingQueries
    ) -> dict[str, Tensor]:
        """The same of denoising queries, of which it is known what they should be."""
        start = torch.arange(dn.groups, device=logits.device)[:, None] * 2 * dn.width
        matched = []
        for objects in self.targets:
            inside = torch.arange(len(objects.labels), device=logits.device)
            matched.append(((start + inside).flatten(), inside.repeat(dn.groups)))
        return self.losses(logits, boxes, matched)

    def _count(self, positives: int) -> float:
        """What losses are divided by: the number of positives, at least 1."""
        if self.sync_normaliser and dist.is_available() and dist.is_initialized():
            total = torch.tensor(float(positives), device=self.sides.device)
            dist.all_reduce(total)
            return max(float(total) / dist.get_world_size(), 1.0)
        return max(float(positives), 1.0)


def default_boxes(memory: Memory) -> tuple[Tensor, Tensor]:
    """The box every token proposes by its place alone.

    Returns:
        Logits ``(B, S, 4)``, infinite where the token is padding or its box reaches within a
        hundredth of the border; and float ``(B, S, 1)``, 1 where they are finite.
    """
    boxes, start = [], 0
    for level, (height, width) in enumerate(memory.shapes):
        outside = memory.padding[:, start : start + height * width].view(-1, height, width)
        valid = torch.stack(((~outside[:, 0]).sum(1), (~outside[:, :, 0]).sum(1)), -1)
        y = torch.arange(height, device=outside.device) + 0.5
        x = torch.arange(width, device=outside.device) + 0.5
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        centre = torch.stack((columns, rows), -1).view(1, -1, 2) / valid[:, None]
        boxes.append(torch.cat((centre, torch.full_like(centre, 0.05 * 2.0**level)), -1))
        start += height * width
    box = torch.cat(boxes, 1)
    usable = ((box > 0.01) & (box < 0.99)).all(-1, keepdim=True) & ~memory.padding[..., None]
    logits = (box / (1 - box)).log().masked_fill(~usable, torch.inf)
    return logits, usable.to(memory.tokens.dtype)


def box_code(boxes: Tensor, features: int) -> Tensor:
    """Sine code of boxes ``(..., 4)`` cx, cy, w, h in 0..1: ``(..., 4 * features)``, y before x."""
    codes = sine_code(boxes[..., [1, 0, 2, 3]] * 2 * math.pi, features, 10000.0)
    return codes.flatten(-2)


def normalised(boxes: Tensor, size: Shape) -> Tensor:
    """Boxes x1, y1, x2, y2 in pixels as cx, cy, w, h in 0..1 of the image."""
    height, width = size
    side = boxes.new_tensor([width, height, width, height])
    shares: Tensor = box_convert(boxes, "xyxy", "cxcywh") / side
    return shares


def _taken(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
