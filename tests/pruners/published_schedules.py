"""Every published setting, written down by hand from the papers, scripts and released code (methods.md, per section).

A row says: this method, planned for this model and budget, has these stages, and the LLM's layers process so much. The
averages are sums of (layers in the segment) * (tokens in it) / L; the logged one bills a layer behind which tokens are
dropped at the count after it. Nothing here was taken from what tokviz answers.
"""

from dataclasses import dataclass, field

from tokviz.names import VisionLayer
from tokviz.types import PlanningInfo

LLAVA_7B = PlanningInfo(576, 32, n_vision_layers=23)
LLAVA_13B = PlanningInfo(576, 40, n_vision_layers=23)
NEXT_7B = PlanningInfo(2880, 32, family="llava_next", n_views=5, has_tiles=True, n_vision_layers=23)
NEXT_13B = PlanningInfo(2880, 40, family="llava_next", n_views=5, has_tiles=True, n_vision_layers=23)
QWEN_7B = PlanningInfo(
    1000, 28, family="qwen2_5_vl", has_cls=False, merges_patches=True, renumbers=False, published_as="qwen"
)
QWEN2_7B = PlanningInfo(
    576, 28, family="qwen2_vl", has_cls=False, merges_patches=True, renumbers=False, published_as="qwen"
)
VIDEO = PlanningInfo(2880, 32, family="llava_next_video", n_views=20)

ONEVISION = PlanningInfo(
    32 * 196, 28, "llava_onevision", has_cls=False, n_views=32, has_frames=True, takes_video=True, merges_patches=True
)


@dataclass(frozen=True)
class Published:
    """stages: ``(site, count after it)``. meanings: F, A_in, A_log."""

    method: str
    info: PlanningInfo
    tokens: int
    stages: list
    meanings: tuple
    params: dict = field(default_factory=dict)
    note: str = ""

    @property
    def name(self):
        """For the test's report."""
        settings = "-".join(f"{key}={value}" for key, value in self.params.items())
        return "-".join(
            filter(None, [self.method, str(self.tokens), f"{self.info.n_visual}x{self.info.n_layers}", settings])
        )


def before_llm(method, site, info, *budgets, **params):
    """Methods of one stage before the LLM: every layer processes the budget."""
    return [Published(method, info, b, [(site, b)], (b, b, b), params) for b in budgets]


APET = [
    # Stage 1 keeps 1.5 B, stage 2 0.5 B (section 1.5). A_log = (15 n1 + 17 n2) / 32.
    Published("apet", LLAVA_7B, 192, [("encoder", 288), (16, 96)], (96, 192.0, 186.0)),
    Published("apet", LLAVA_7B, 128, [("encoder", 192), (16, 64)], (64, 128.0, 124.0)),
    Published("apet", LLAVA_7B, 64, [("encoder", 96), (16, 32)], (32, 64.0, 62.0)),
    Published("apet", LLAVA_13B, 192, [("encoder", 288), (20, 96)], (96, 192.0, 187.2)),
    # NeXT: 192 -> 64, 96 -> 32, 48 -> 16 per crop, five crops.
    Published("apet", NEXT_7B, 640, [("encoder", 960), (16, 320)], (320, 640.0, 620.0)),
    Published("apet", NEXT_7B, 320, [("encoder", 480), (16, 160)], (160, 320.0, 310.0)),
    Published("apet", NEXT_7B, 160, [("encoder", 240), (16, 80)], (80, 160.0, 155.0)),
    # Qwen 20%: floor(0.300 N), then floor(0.333 n1); 10%: floor(0.150 N). A_in = (14 n1 + 14 n2) / 28.
    Published("apet", QWEN_7B, 200, [("projector", 300), (14, 99)], (99, 199.5, (13 * 300 + 15 * 99) / 28)),
    Published("apet", QWEN_7B, 100, [("projector", 150), (14, 49)], (49, 99.5, (13 * 150 + 15 * 49) / 28)),
]

VSCAN = [
    # The released scripts: 1.5 B enter, half as many as B stay behind layer L/2; Qwen: 0.167 N, then 0.333 of it.
    Published("vscan", LLAVA_7B, 192, [("projector", 288), (16, 96)], (96, 192.0, 186.0)),
    Published("vscan", LLAVA_7B, 128, [("projector", 192), (16, 64)], (64, 128.0, 124.0)),
    Published("vscan", LLAVA_7B, 64, [("projector", 96), (16, 32)], (32, 64.0, 62.0)),
    Published("vscan", NEXT_7B, 320, [("projector", 480), (16, 160)], (160, 320.0, 310.0)),
    Published("vscan", QWEN_7B, 100, [("projector", 150), (14, 49)], (49, 99.5, (13 * 150 + 15 * 49) / 28)),
]

SPARSEVLM = [
    # Counts include the recycled clusters (section 5): 309 = 300 + 9. A_in = (3*576 + 4a + 9b + 16c) / 32.
    Published("sparsevlm", LLAVA_7B, 192, [(3, 309), (7, 204), (16, 113)], (113, 206.5, 192.03125)),
    Published("sparsevlm", LLAVA_7B, 128, [(3, 312), (7, 117), (16, 39)], (39, 145.40625, 128.625)),
    Published("sparsevlm", LLAVA_7B, 96, [(3, 249), (7, 55), (16, 27)], (27, 114.09375, 96.9375)),
    Published("sparsevlm", LLAVA_7B, 64, [(3, 82), (7, 32), (16, 18)], (18, 82.25, 64.8125)),
    *(
        Published("sparsevlm", LLAVA_7B, tokens, stages, meanings, {"version": "plus"})
        for tokens, stages, meanings in [
            (192, [(3, 300), (7, 200), (16, 118)], (118, 206.75, 192.4375)),
            (128, [(3, 238), (7, 108), (16, 60)], (60, 144.125, 128.0)),
            (96, [(3, 246), (7, 54), (16, 28)], (28, 113.9375, 96.8125)),
            (64, [(3, 66), (7, 34), (16, 20)], (20, 81.8125, 64.4375)),
        ]
    ),
]

POLYMORPHIC = [
    # 2 B behind the encoder, then the geometric schedule of section 2.5. 7B: A_in = (3a + 4b + 9c + 16d) / 32.
    *(
        Published("polymorphic", LLAVA_7B, tokens, [("encoder", a), (3, b), (7, c), (16, d)], (d, average, logged))
        for tokens, a, b, c, d, average, logged in [
            (192, 384, 272, 192, 136, 192.0, 184.25),
            (128, 256, 181, 128, 91, 128.125, 122.96875),
            (64, 128, 91, 64, 45, 63.875, 61.28125),
        ]
    ),
    # 13B: A_in = (3a + 4b + 9c + 24d) / 40.
    *(
        Published("polymorphic", LLAVA_13B, tokens, [("encoder", a), (3, b), (7, c), (16, d)], (d, average, logged))
        for tokens, a, b, c, d, average, logged in [
            (192, 384, 280, 204, 149, 192.1, 186.225),
            (128, 256, 187, 136, 99, 127.9, 123.975),
            (64, 128, 93, 68, 50, 64.2, 62.25),
        ]
    ),
    # Qwen2-VL-7B, behind layers 3, 7 and 13 (1-based): A_in = (3a + 4b + 6c + 15d) / 28.
    *(
        Published("polymorphic", QWEN2_7B, tokens, [("projector", a), (3, b), (7, c), (13, d)], (d, average, logged))
        for tokens, a, b, c, d, average, logged in [
            (192, 384, 270, 190, 134, 5382 / 28, 5132 / 28),
            (128, 256, 180, 127, 89, 3585 / 28, 3418 / 28),
            (64, 128, 90, 63, 45, 1797 / 28, 1714 / 28),
        ]
    ),
]

TODRE = [
    # 25% and 10% of 2880; probes at L/2, 5L/8, 6L/8, 7L/8, where the plan assumes that tokens stay.
    *(
        Published("todre", info, k, [("projector", k), *((layer, None) for layer in probes)], (k, k, k))
        for info, probes in [(NEXT_7B, (16, 20, 24, 28)), (NEXT_13B, (20, 25, 30, 35))]
        for k in (720, 288)
    ),
]

FASTV = [
    # ATTENTION_RANK of the scripts, K = 2: A_in = (2*576 + 30 R) / 32, A_log = (576 + 31 R) / 32.
    Published("fastv", LLAVA_7B, 72, [(2, 72)], (72, 103.5, 87.75)),
    Published("fastv", LLAVA_7B, 144, [(2, 144)], (144, 171.0, 157.5)),
    Published("fastv", LLAVA_7B, 288, [(2, 288)], (288, 306.0, 297.0)),
    Published("fastv", LLAVA_7B, 432, [(2, 432)], (432, 441.0, 436.5)),
    # fastv_kvcache.py: K = 3, half of 576. llmc: K = 3, 128. A_in = (3*576 + 29 R) / 32.
    Published("fastv", LLAVA_7B, 288, [(3, 288)], (288, 315.0, 306.0), {"layer": 3}),
    Published("fastv", LLAVA_7B, 128, [(3, 128)], (128, 170.0, 156.0), {"layer": 3}),
]

PDROP = [
    # 0.5, 0.25, 0.125 of N behind layers 8, 16, 24: A_in = 8 (576 + 288 + 144 + 72) / 32; NeXT five times that.
    Published("pdrop", LLAVA_7B, 192, [(8, 288), (16, 144), (24, 72)], (72, 270.0, 254.25), {"ratios": "published"}),
    Published(
        "pdrop", NEXT_7B, 640, [(8, 1440), (16, 720), (24, 360)], (360, 1350.0, 1271.25), {"ratios": "published"}
    ),
    # One ratio for three layers whose average is the budget (section 7.5).
    Published("pdrop", LLAVA_7B, 192, [(8, 145), (16, 36), (24, 9)], (9, 191.5, 173.78125), {"layers": "8-16-24"}),
    Published("pdrop", LLAVA_7B, 192, [(4, 303), (8, 159), (16, 84)], (84, 191.625, 176.25), {"layers": "4-8-16"}),
    Published("pdrop", LLAVA_7B, 128, [(4, 203), (8, 71), (16, 25)], (25, 127.625, 110.40625), {"layers": "4-8-16"}),
    Published("pdrop", LLAVA_7B, 64, [(2, 129), (6, 29), (15, 6)], (6, 63.46875, 45.65625), {"layers": "2-6-15"}),
]

V2DROP = [
    # Before layers 3, 17, 22: A_in = (3*576 + 14a + 5b + 10c) / 32, A_log = (2*576 + 14a + 5b + 11c) / 32.
    Published("v2drop", LLAVA_7B, 192, [(3, 288), (17, 144), (22, 1)], (1, 202.8125, 184.84375), {"mode": "official"}),
    # Paper: 50/70/100%, 72/75/100%, 95/95/100% of what is there goes.
    Published("v2drop", LLAVA_7B, 192, [(3, 288), (17, 86), (22, 0)], (0, 193.4375, 175.4375)),
    Published("v2drop", LLAVA_7B, 128, [(3, 161), (17, 40), (22, 0)], (0, 130.6875, 112.6875)),
    Published("v2drop", LLAVA_7B, 64, [(3, 28), (17, 1), (22, 0)], (0, 66.40625, 48.40625)),
]

VTW = [
    # K = 15 of 32 and 20 of 40: N K / L, and one layer less in the logger's way of counting.
    Published("vtw", LLAVA_7B, 64, [(15, 0)], (0, 270.0, 252.0), note="the budget does not matter"),
    Published("vtw", LLAVA_13B, 64, [(20, 0)], (0, 288.0, 273.6)),
    Published("vtw", LLAVA_7B, 64, [(16, 0)], (0, 288.0, 270.0), {"layer": 16}),
]


def tome_counts(first, then, layers_with_first):
    """Tokens after each of 23 layers that merge ``first`` tokens in the first so many layers, then ``then``."""
    merged = [first] * layers_with_first + [then] * (23 - layers_with_first)
    return [576 - sum(merged[: i + 1]) for i in range(23)]


TOME = [
    # Lists of section 9.5: 16*17 + 7*16 = 384, 11*20 + 12*19 = 448, 6*23 + 17*22 = 512 tokens merged in 23 layers.
    Published(
        "tome", LLAVA_7B, tokens, [(VisionLayer(i), left) for i, left in enumerate(tome_counts(*merges))], (tokens,) * 3
    )
    for tokens, merges in [(192, (17, 16, 16)), (128, (20, 19, 11)), (64, (23, 22, 6))]
]  # fmt: skip

DART = [
    # 4 visual pivots and, for 8 pivots, ceil(B // 8) each: 4 + 8*16 = 132. A_in = (2*576 + 30 R) / 32.
    Published("dart", LLAVA_7B, 192, [(2, 196)], (196, 219.75, 207.875), {"count": "official"}),
    Published("dart", LLAVA_7B, 128, [(2, 132)], (132, 159.75, 145.875), {"count": "official"}),
    Published("dart", LLAVA_7B, 64, [(2, 68)], (68, 99.75, 83.875), {"count": "official"}),
    Published("dart", LLAVA_7B, 128, [(2, 128)], (128, 156.0, 142.0), note="the budget itself, unless told otherwise"),
]

BEFORE_THE_LLM = [
    *before_llm("visionzip", "encoder", LLAVA_7B, 192, 128, 64),
    *before_llm("visionzip", "encoder", NEXT_7B, 640, 320, 160),
    *before_llm("divprune", "projector", LLAVA_7B, 192, 128, 64, 56),
    *before_llm("divprune", "projector", NEXT_7B, 640, 320, 160),
    *before_llm("fastervlm", "projector", LLAVA_7B, 192, 144, 128, 64, 58, 29),
    *before_llm("fastervlm", "projector", NEXT_7B, 720, 640, 320, 290, 160, 145),
    *before_llm("globalcom2", "projector", NEXT_7B, 720, 288),
    *before_llm("adaptvtp", "projector", LLAVA_7B, 192, 128, 64),
    *before_llm("adaptvtp", "projector", NEXT_7B, 720, 640, 320),
    *before_llm("adaptvtp", "projector", VIDEO, 960, 720, 540, 480),
    # Of 196 tokens per frame 49, 39, 29, 19 stay (25, 19.9, 14.8, 9.7 per cent); vLLM's rate 0.75 is 25 per cent.
    *before_llm("fastvid", "projector", ONEVISION, 1568, 1248, 928, 608),
    *before_llm("holitom", "projector", ONEVISION, 1568),
    # A_in = (18 * 1568 + 10 * 784) / 28, A_log = (17 * 1568 + 11 * 784) / 28.
    Published("holitom", ONEVISION, 1568, [("projector", 1568), (18, 784)], (784, 1288.0, 1260.0), {"inside": "merge"}),
    # 1.25 B, then 0.3 of these: (20 * 1960 + 8 * 588) / 28 is B.
    Published("flashvid", ONEVISION, 1568, [("projector", 1960), (20, 588)], (588, 1568.0, 1519.0)),
    *before_llm("vidcom2", "projector", ONEVISION, 1568),
    *before_llm("evs", "projector", ONEVISION, 1568),
    # A window of four frames keeps 1 + 3 (1 - k) of them: 47.5 per cent for k = 0.7.
    *before_llm("dycoke", "projector", ONEVISION, 2979),
    *before_llm("cdpruner", "projector", LLAVA_7B, 192, 128, 64),
    *before_llm("cdpruner", "projector", NEXT_7B, 640, 320, 160),
    *before_llm("vispruner", "encoder", LLAVA_7B, 192, 128, 64),
    *before_llm("vispruner", "encoder", NEXT_7B, 640, 320, 160),
    *before_llm("scope", "encoder", LLAVA_7B, 192, 128, 64),
    *before_llm("scope", "encoder", NEXT_7B, 640, 320, 160),
    *before_llm("mmtok", "projector", LLAVA_7B, 192, 128, 64),
    *before_llm("mmtok", "projector", NEXT_7B, 640, 320, 160),
    *before_llm("hiprune", "projector", LLAVA_7B, 192, 128, 64),
    *before_llm("hiprune", "projector", NEXT_7B, 640, 320, 160),
    *before_llm("holov", "projector", LLAVA_7B, 192, 128, 64),
    # 75, 90 and 95 per cent less; overall_tokens of the released configuration is 144.
    *before_llm("adafv", "projector", NEXT_7B, 720, 288, 144),
    *before_llm("prumerge", "encoder", LLAVA_7B, 192, 128, 64),
    *before_llm("prumerge_plus", "encoder", LLAVA_7B, 192, 128, 64),
    # As published, the outliers of attention decide at run time, and a plan assumes that everything stays.
    Published("prumerge", LLAVA_7B, 64, [("encoder", None)], (576, 576, 576), {"adaptive": True}),
    Published("prumerge_plus", LLAVA_7B, 64, [("encoder", None)], (576, 576, 576), {"adaptive": True}),
]

IVCPRUNE = [
    # Half of Qwen2.5-VL's tokens before layer 16 of 28, 30 per cent of LLaVA's before layer 16 of 32.
    Published("ivcprune", QWEN_7B, 500, [(16, 500)], (500, 22000 / 28, 21500 / 28)),
    Published("ivcprune", LLAVA_7B, 173, [(16, 173)], (173, 374.5, 361.90625)),
]

PIXELPRUNE = [
    # No budget is published: pixels decide at run time, and a plan assumes that everything stays.
    Published("pixelprune", QWEN_7B, 500, [("projector", None)], (1000, 1000, 1000), {"count": "adaptive"}),
]

SETTINGS = [
    *VSCAN, *APET, *SPARSEVLM, *POLYMORPHIC, *TODRE, *FASTV, *PDROP, *V2DROP, *VTW, *TOME, *DART,
    *IVCPRUNE, *PIXELPRUNE, *BEFORE_THE_LLM,
]  # fmt: skip
