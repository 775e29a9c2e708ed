"""Every published method that was read for this product: 65, one entry each.

Recipes, checks, benchmarks and the table of the documents read this list. Nothing here imports
torch, and a method is imported when it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgeadapt.errors import InputError

Role = Literal[
    "adaptation",
    "codec",
    "data",
    "delta",
    "fleet",
    "gradient",
    "head",
    "insert",
    "loss",
    "merge",
    "optimiser",
    "pass",
    "protocol",
    "router",
    "schedule",
    "score",
    "search",
    "selection",
    "start",
]
"""What part of the work a method does."""
Family = Literal["selective", "additive", "prompt", "reparameterised", "hybrid", "none"]
"""How a method changes a network, after Zhang et al., arXiv 2501.13787: some of its own weights
move; small modules stand beside or behind its layers; inputs are learned; the change of a weight is
written by fewer numbers; several of these; or in no way of its own.
"""
Verdict = Literal["default", "useful", "loses", "mechanism", "planned"]
"""What measuring came to: on unless switched off; better somewhere and nowhere worse; neither;
works, but on too small a stand-in to be compared; not measured.
"""
JOURNEYS: dict[str, str] = {
    "a": "tune a pretrained encoder for my site",
    "b": "spend a budget",
    "c": "make it smaller",
    "d": "many devices, many tasks",
    "e": "several conditions in one bundle",
    "f": "better steps",
    "g": "do not forget",
    "h": "learn inside the encoder on the device",
    "i": "sensors of few numbers",
}
_ON_THEIR_PAGES = frozenset({5, 23, 27, 42, 65})


@dataclass(frozen=True)
class Entry:
    """One method.

    Attributes:
        number: 1 to 65.
        role, family: what it does, and how it changes a network.
        name: as a recipe calls it.
        journeys: letters of :data:`JOURNEYS` that it serves.
        title: of the paper; its short name first where it has one.
        does: in one line.
        make: ``"MODULE:NAME"`` of what makes it; empty while it is not built.
        page: in ``docs``, with an anchor; empty while there is none.
        verdict: what its row in the committed measurement says, or its page.
    """

    number: int
    role: Role
    family: Family
    name: str
    journeys: str
    title: str
    does: str
    make: str = ""
    page: str = ""
    verdict: Verdict = "planned"

    @property
    def is_built(self) -> bool:
        """Is there code behind it?"""
        return bool(self.make)

    @property
    def row(self) -> str:
        """Its row in the committed measurement; empty where its page has the figures."""
        return "" if self.number in _ON_THEIR_PAGES else f"{self.role}/{self.name}"


# fmt: off
ENTRIES: tuple[Entry, ...] = (
    Entry(1, "gradient", "none", "projected", "af",
          "Q-GaLore: Quantized GaLore with INT4 Projection and Layer-Adaptive Low-Rank Gradients",
          "keeps an optimiser's moments in a low-rank projection of the gradient"),
    Entry(2, "loss", "none", "layer_contrast", "f",
          "LinguGKD: Large Language Model Meets Graph Neural Network in Knowledge Distillation",
          "pulls a student's layers to a teacher's of the same sample, from other classes'"),
    Entry(3, "pass", "none", "rows", "cd",
          "MAFT: Adapting Pre-trained Language Models to African Languages",
          "removes rows of an embedding or a classifier that a site never uses"),
    Entry(4, "score", "reparameterised", "path_gradient", "b",
          "CoLoRA: Contribution-based Low-Rank Adaptation for Real Image Restoration",
          "gives ranks by integrated gradients between base and a tuned probe"),
    Entry(5, "optimiser", "none", "lamb", "f",
          "LAMB: Large Batch Optimization for Deep Learning",
          "moves every weight matrix by a share of its own length",
          make="edgeadapt.host.steps.optimisers:LAMB",
          page="training.md#the-recipe",
          verdict="loses"),
    Entry(6, "schedule", "selective", "layer_sampling", "af",
          "LISA: Layerwise Importance Sampling for Memory-Efficient Fine-Tuning",
          "trains the classifier and a few blocks drawn anew every period"),
    Entry(7, "score", "reparameterised", "depth", "b",
          "MoLA: Higher Layers Need More LoRA Experts",
          "lets ranks or experts grow with depth at the same total"),
    Entry(8, "loss", "none", "prior", "ag",
          "Fine-Tuning Visual Autoregressive Models for Subject-Driven Generation",
          "stays close to the base on unlabelled reference data"),
    Entry(9, "insert", "additive", "bottleneck", "ai",
          "Parameter-Efficient Transfer Learning of Audio Spectrogram Transformers",
          "puts a bottleneck or a small convolution beside a feed-forward layer"),
    Entry(10, "schedule", "additive", "split", "af",
          "MoSA, Split & Merge: Unlocking the Potential of Visual Adapters via Sparse Training",
          "trains one of several disjoint parts of a delta at a time, and uses all"),
    Entry(11, "schedule", "selective", "freeze_below", "af",
          "Telly: Towards Efficient Fine-tuning of Pre-trained Code Models",
          "freezes the layers that a short run leaves alone, and keeps their outputs"),
    Entry(12, "delta", "selective", "mask", "ag",
          "R-AMT: Regularized Mask Tuning",
          "keeps or drops each weight, a bit each, by scores"),
    Entry(13, "merge", "none", "depth_scaling", "dg",
          "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging",
          "scales the change of every layer with its depth, after training"),
    Entry(14, "pass", "none", "codebook", "c",
          "PV-Tuning: Beyond Straight-Through Estimation for Extreme LLM Compression",
          "trains values and codes of a codebook in turns"),
    Entry(15, "insert", "additive", "two_views", "gh",
          "LEVI: Generalizable Fine-tuning via Layer-wise Ensemble of Different Views",
          "adds a small network on the raw input to the frozen one, layer by layer"),
    Entry(16, "insert", "additive", "skip", "a",
          "SCEdit: Efficient and Controllable Image Diffusion via Skip Connection Editing",
          "puts a bottleneck on skip connections, on the decoder's side"),
    Entry(17, "gradient", "reparameterised", "tangent", "fh",
          "LoRA-Pro: Are Low-Rank Adapters Properly Optimized?",
          "makes a step of the factors the projection of the full gradient"),
    Entry(18, "protocol", "none", "checklist", "a",
          "The Ultimate Guide to Fine-Tuning LLMs",
          "checks data, split, rate, budget and control before a run"),
    Entry(19, "schedule", "selective", "lottery", "d",
          "LT-SFT: Composable Sparse Fine-Tuning for Cross-Lingual Transfer",
          "trains the entries that moved most, from the start again; such changes add up"),
    Entry(20, "schedule", "selective", "small_weights", "a",
          "SaRA: Diffusion Fine-tuning with Progressive Sparse Low-Rank Adaptation",
          "trains the smallest weights, fewer as they grow"),
    Entry(21, "delta", "reparameterised", "scale_shift", "aeh",
          "SSF, Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning",
          "a scale and a shift per channel behind a layer, folded into it",
          make="edgeadapt.host.tuning.deltas.scale_shift:ScaleShift",
          page="tuning.md#scale-and-shift"),
    Entry(22, "loss", "none", "balanced", "d",
          "MFTCoder: Boosting Code LLMs with Multitask Fine-Tuning",
          "means over the tasks that are present, not over samples"),
    Entry(23, "router", "additive", "hypervector", "e",
          "EAR: Efficient Model Adaptation for Continual Learning at the Edge",
          "tells conditions by hypervectors; each has a set of adaptor and head",
          make="edgeadapt.device.detection.hypervector_router:HypervectorRouter",
          page="methods/ear.md#measured-against-what-ships",
          verdict="useful"),
    Entry(24, "router", "reparameterised", "key_match", "de",
          "FedIns: Towards Instance-adaptive Inference for Federated Learning",
          "averages the scale-shift sets whose keys are nearest to a sample"),
    Entry(25, "data", "none", "mixing", "a",
          "Effectiveness of Data Augmentation for Parameter Efficient Tuning with Limited Data",
          "mixes, cuts and edits samples, and holds classes apart by contrast"),
    Entry(26, "score", "hybrid", "squared_gradient", "b",
          "SPT: Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning",
          "shares a budget by squared gradients of a few batches",
          make="edgeadapt.host.tuning.scores.squared_gradient:SquaredGradient",
          page="tuning.md#squared-gradient"),
    Entry(27, "selection", "none", "adaptive", "g",
          "Adapt-Infinity: Scalable Lifelong Multimodal Instruction Tuning via Data Selection",
          "keeps samples by clusters of gradients, an expert for each",
          make="edgeadapt.device.coreset.adaptive:Adaptive",
          page="methods/selection.md#measured",
          verdict="loses"),
    Entry(28, "pass", "reparameterised", "quantised_base", "c",
          "TSLAM-Mini: Efficient Telecom Specific LLM with QLoRA and Digital Twin Data",
          "trains a float delta over a frozen base of four bits"),
    Entry(29, "pass", "none", "calibrated", "bc",
          "CalibTIP: Improving Post Training Neural Quantization",
          "fits rounding layer by layer to its own outputs, and shares bits exactly"),
    Entry(30, "delta", "reparameterised", "generated", "d",
          "Polyhistor: Parameter-Efficient Multi-Task Adaptation for Dense Vision Tasks",
          "a small generator makes every site's delta from a task's vector"),
    Entry(31, "data", "none", "curriculum", "a",
          "RDTF: Resource-efficient Dual-mask Training for Animated Sticker Generation",
          "brings samples from easy to hard by their entropy"),
    Entry(32, "merge", "none", "intruders", "g",
          "LoRA vs Full Fine-tuning: An Illusion of Equivalence",
          "finds singular directions that the base does not have, and shrinks them"),
    Entry(33, "insert", "reparameterised", "routed_low_rank", "e",
          "MixLoRA: Enhancing LLM Fine-Tuning with LoRA-based Mixture of Experts",
          "low-rank branches whose hidden channels are gated per sample"),
    Entry(34, "schedule", "selective", "regrow", "a",
          "SFT: Scaling Sparse Fine-Tuning to Large Language Models",
          "drops the smallest changes and grows where the gradient is largest"),
    Entry(35, "schedule", "selective", "importance", "f",
          "IST: Layer-wise Importance Matters",
          "draws layers by how much leaving them out hurts"),
    Entry(36, "protocol", "prompt", "personal", "ad",
          "Exploring and Evaluating Personalized Models for Code Generation",
          "compares ways to tune for each person, by accuracy and operations"),
    Entry(37, "start", "reparameterised", "explained_variance", "ab",
          "EVA: One Initialization to Rule them All",
          "starts at the directions along which a site's inputs are largest",
          make="edgeadapt.host.tuning.starts.explained_variance:ExplainedVariance",
          page="tuning.md#explained-variance"),
    Entry(38, "loss", "none", "masked", "a",
          "LoRA-Edit: First-Frame-Guided Video Editing via Mask-Aware LoRA",
          "a mask says which region learns from which source"),
    Entry(39, "delta", "reparameterised", "tunable", "eh",
          "Tunable Convolutions with Parametric Multi-Loss Optimization",
          "mixes several weights by a dial, trained under losses mixed alike"),
    Entry(40, "pass", "none", "distortion_prune", "bc",
          "Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural Networks",
          "prunes each layer as far as the summed distortion allows"),
    Entry(41, "search", "hybrid", "pareto", "b",
          "AutoPEFT: Automatic Configuration Search for Parameter-Efficient Fine-Tuning",
          "searches methods, sizes and layers for the front of several goals"),
    Entry(42, "adaptation", "selective", "neuro_hebbian", "h",
          "NHL: Neuro-Modulated Hebbian Learning for Fully Test-Time Adaptation",
          "the first convolution learns without labels, by competition and entropy",
          make="edgeadapt.host.methods.label_free.encoder_space.hebbian_modulator:NeuroHebbian",
          page="methods/hebbian.md#neuro-modulated-hebbian-learning",
          verdict="loses"),
    Entry(43, "delta", "hybrid", "union", "a",
          "Parameter-Efficient Fine-Tuning for Foundation Models",
          "several deltas at once, whose changes add up",
          make="edgeadapt.host.tuning.deltas.union:Union",
          page="tuning.md#union"),
    Entry(44, "loss", "none", "distribution", "g",
          "DR-Tune: Distribution Regularization with Semantic Calibration",
          "the classifier must also classify stored features of the base"),
    Entry(45, "start", "reparameterised", "orthogonal_block", "d",
          "Orthogonal Adaptation for Modular Customization of Diffusion Models",
          "every task trains in its own columns of one orthogonal matrix"),
    Entry(46, "delta", "reparameterised", "two_sided", "a",
          "Hydra: Multi-head Low-rank Adaptation for Parameter Efficient Fine-tuning",
          "a low-rank branch on a layer's inputs and one on its outputs",
          make="edgeadapt.host.tuning.deltas.two_sided:TwoSided",
          page="tuning.md#two-sided"),
    Entry(47, "delta", "reparameterised", "task_low_rank", "d",
          "MTLoRA: Low-Rank Adaptation for Efficient Multi-Task Learning",
          "one shared low rank, and one for every task"),
    Entry(48, "insert", "additive", "hypercomplex", "h",
          "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers",
          "adapters whose matrices are sums of Kronecker products"),
    Entry(49, "router", "reparameterised", "task_logits", "de",
          "MHR: Multi-Head Adapter Routing for Cross-Task Generalization",
          "weighs experts' blocks for each task; a mixture is one delta"),
    Entry(50, "codec", "additive", "1bit", "cd",
          "Bi-Adapter: Revisiting the Parameter Efficiency of Adapters from Precision Redundancy",
          "writes numbers in 1, 2, 4 or 8 bits, by quantiles of a normal",
          make="edgeadapt.host.tuning.codecs:Codes",
          page="tuning.md#the-file"),
    Entry(51, "router", "reparameterised", "balance", "e",
          "LoRA-Mixer: Coordinate Modular LoRA Experts Through Serial Attention Routing",
          "trains a router alone over frozen deltas: sure of each, even over all"),
    Entry(52, "loss", "none", "anchor_difference", "i",
          "MotionDirector: Motion Customization of Text-to-Video Diffusion Models",
          "subtracts one frame's error, so that a constant offset does not count"),
    Entry(53, "start", "reparameterised", "context_oriented", "ag",
          "CorDA: Context-Oriented Decomposition Adaptation of Large Language Models",
          "starts at the part of a weight that matters least, or most, to inputs",
          make="edgeadapt.host.tuning.starts.context_oriented:ContextOriented",
          page="tuning.md#context-oriented"),
    Entry(54, "delta", "hybrid", "residual_scale", "a",
          "DiffFit: Simple Parameter-Efficient Fine-Tuning for Large Diffusion Models",
          "biases, norms and a scale of every residual branch",
          make="edgeadapt.host.tuning.deltas.residual_scale:ResidualScale",
          page="tuning.md#residual-scale"),
    Entry(55, "delta", "reparameterised", "kronecker", "a",
          "SoKA: Singular Value Decomposition on Kronecker Adaptation",
          "a sum of Kronecker products, started by a rearranged decomposition",
          make="edgeadapt.host.tuning.deltas.kronecker:Kronecker",
          page="tuning.md#kronecker"),
    Entry(56, "router", "reparameterised", "hybrid_entropy", "e",
          "DynMoLE: Hybrid Routing for Mixture of LoRA Experts",
          "all experts where the router is unsure, else the few that it prefers"),
    Entry(57, "score", "additive", "skip", "b",
          "RelaCtrl: Relevance-Guided Efficient Control for Diffusion Transformers",
          "what skipping a layer costs says where a side signal goes in"),
    Entry(58, "merge", "selective", "graft", "cd",
          "Task-Specific Skill Localization in Fine-tuned Language Models",
          "keeps the changes of the fewest entries that carry the skill"),
    Entry(59, "insert", "prompt", "prompt", "i",
          "NetLLM: Adapting Large Language Models for Networking",
          "signals become inputs of a frozen transformer; heads give valid actions"),
    Entry(60, "loss", "none", "gate", "fh",
          "Rho-PNN: Zero-Shot Hyperspectral Pansharpening Using Hysteresis-Based Tuning",
          "a second loss acts only while the first is safely low; steps are taken back"),
    Entry(61, "fleet", "none", "compress", "d",
          "L-GreCo: Layerwise-Adaptive Gradient Compression for Efficient Data-parallel Learning",
          "ranks or bits per layer with the fewest bytes at a given error"),
    Entry(62, "gradient", "reparameterised", "row_norm", "f",
          "ALLoRA: Adaptive Learning Rate Mitigates LoRA Fatal Flaws",
          "a row's step shrinks as the row grows"),
    Entry(63, "insert", "additive", "side", "ah",
          "UniPT: Universal Parallel Tuning for Transfer Learning",
          "a small network beside the frozen one weighs its taps"),
    Entry(64, "merge", "none", "breadcrumbs", "d",
          "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
          "drops the largest and the many small changes of each layer, then adds"),
    Entry(65, "head", "none", "key_value", "gi",
          "Discrete Key-Value Bottleneck",
          "a head that counts: labels leave it again exactly",
          make="edgeadapt.host.methods.heads.key_value.bottleneck:KeyValueBottleneck",
          page="methods/key_value.md#where-it-is-the-best-choice",
          verdict="useful"),
)
# fmt: on

_SCORES = "edgeadapt.host.tuning.scores"
BESIDE: dict[tuple[str, str], str] = {
    ("delta", "head"): "edgeadapt.host.tuning.deltas.whole:Head",
    ("delta", "bias"): "edgeadapt.host.tuning.deltas.whole:Bias",
    ("delta", "full"): "edgeadapt.host.tuning.deltas.whole:Full",
    ("delta", "low_rank"): "edgeadapt.host.tuning.deltas.low_rank:LowRank",
    ("start", "kronecker_svd"): "edgeadapt.host.tuning.starts.kronecker_svd:KroneckerSVD",
    ("score", "explained_variance"): f"{_SCORES}.explained_variance:ExplainedVariance",
}
"""What makes members without an entry, by role and name: what methods are held against, and second
parts of a method.
"""


def makes(role: Role) -> dict[str, str]:
    """What makes the members of a role that are built, by name."""
    beside = {name: make for (of, name), make in BESIDE.items() if of == role}
    return beside | {one.name: one.make for one in ENTRIES if one.role == role and one.is_built}


def entry(number: int) -> Entry:
    """The method of this number.

    Raises:
        InputError: there is none.
    """
    if not 1 <= number <= len(ENTRIES):
        raise InputError(f"methods have the numbers 1 to {len(ENTRIES)}, got {number}")
    return ENTRIES[number - 1]


def entries(journey: str = "", role: str = "") -> tuple[Entry, ...]:
    """The methods of a journey and of a role; empty: of all.

    Raises:
        InputError: no such journey or role.
    """
    for given, allowed, what in (
        (journey, tuple(JOURNEYS), "journey"),
        (role, get_args(Role), "role"),
    ):
        if given and given not in allowed:
            raise InputError(f"no {what} {given!r}; there are {', '.join(allowed)}")
    return tuple(
        one for one in ENTRIES if journey in one.journeys and (not role or one.role == role)
    )


__all__ = [
    "BESIDE",
    "ENTRIES",
    "JOURNEYS",
    "Entry",
    "Family",
    "Role",
    "Verdict",
    "entries",
    "entry",
    "makes",
]
