"""The recipe of the video model: clips as sequences, what is followed through time, and the stock folder at the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration, LlavaNextVideoForConditionalGeneration

from scenes import CLIP_FAMILIES, COLORS, HELD_OUT_SEEDS, SHAPES, UNSEEN_PAIRS, generate_clip
from training.architecture import GRID, UNKNOWN, VOCABULARY_ROWS, pixel_values, vocabulary
from training.clip_prompts import (
    CELLS,
    FRAME_TOKENS,
    FRAMES,
    VIDEO_TOKEN,
    VIDEO_TOKENS,
    WORDS,
    cell_owners,
    cell_tracks,
    clip_block,
    encode,
    named_traces,
    pack_traces,
    random_clip_blocks,
    reverse,
    trace,
)
from training.language import Eyes, positions_and_mask
from training.loop import Optimizers, split_matrices
from training.prompts import pack
from training.tally import named_pairs
from training.video import (
    ClipExample,
    ClipSource,
    VideoTask,
    backwards,
    pool,
    step_losses,
    trace_loss,
    track_loss,
    watch,
    where_loss,
)
from training.video_architecture import build_video_model, build_video_processor
from training.video_export import assemble_video, save_video_folder
from training.video_scoring import ask_video, check_clip, load_video_folder, project_video

PICTURE_MODEL = Path(__file__).resolve().parents[2] / "assets" / "tokviz-tiny"


@pytest.fixture(scope="module")
def picture() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(PICTURE_MODEL, local_files_only=True, dtype=torch.float32)


@pytest.fixture(scope="module")
def eyes(picture: LlavaForConditionalGeneration) -> Eyes:
    return Eyes(picture.model.vision_tower.state_dict())


@pytest.fixture(scope="module")
def example(eyes: Eyes) -> ClipExample:
    return watch(eyes, 5)


@pytest.fixture(scope="module")
def task(picture: LlavaForConditionalGeneration, example: ClipExample) -> VideoTask:
    features = example.features.float()
    task = VideoTask(features.mean(0), features.std(0) + 1e-4)
    task.load_picture_model(picture)
    return task.eval()


@pytest.fixture(scope="module")
def assembled(picture: LlavaForConditionalGeneration, task: VideoTask) -> LlavaNextVideoForConditionalGeneration:
    return assemble_video(picture.model.vision_tower.state_dict(), task.state_dict())


@pytest.fixture(scope="module")
def folder(assembled: LlavaNextVideoForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video")
    save_video_folder(assembled, path)
    return path


def test_words_of_pictures_keep_their_ids_and_all_fit_into_the_table() -> None:
    assert {word: WORDS[word] for word in vocabulary()} == vocabulary()
    assert sorted(WORDS.values()) == list(range(len(WORDS)))
    assert len(WORDS) <= VOCABULARY_ROWS


def test_every_question_about_a_clip_is_in_the_vocabulary() -> None:
    tokenizer = build_video_processor().tokenizer
    for seed in [*range(12), *HELD_OUT_SEEDS[:12]]:
        for question in generate_clip(seed, (96, 96)).questions:
            ids = tokenizer(f"USER: {VIDEO_TOKEN}\n{question.text} ASSISTANT: {question.answer}")["input_ids"]
            assert UNKNOWN not in ids, question
            assert ids[2:] == [WORDS[VIDEO_TOKEN], *encode(question.text), WORDS["assistant"], *encode(question.answer)]


def test_training_questions_come_from_every_family_and_name_no_unseen_pair() -> None:
    rng, families, pairs = np.random.default_rng(0), set(), set()
    names = {index: word for word, index in WORDS.items()}
    for seed in range(12):
        for block in random_clip_blocks(generate_clip(seed, (96, 96), questions_per_family=0), rng, 150):
            families.add(block.family)
            pairs |= named_pairs(" ".join(names[token] for token in block.question))
    assert families == set(CLIP_FAMILIES)
    assert len(pairs) > 15 and not pairs & UNSEEN_PAIRS


def test_random_questions_are_answered_as_the_clip_s_own_record_says() -> None:
    """Motion and order from the boxes of the two records alone."""
    names = {index: word for word, index in WORDS.items()}
    rng, checked = np.random.default_rng(1), 0
    for seed in range(6):
        clip = reverse(generate_clip(seed, questions_per_family=0))
        things = {item.name: item for item in clip.objects}
        for block in random_clip_blocks(clip, rng, 150):
            words = [names[token] for token in block.question[:-1]]
            if block.family == "order":
                first, second = (" ".join(words[at : at + 2]) for at in (2, 7))
                earlier = things[first].shown[0] < things[second].shown[0]
                assert names[block.answer[0]] == ("yes" if earlier else "no")
                checked += 1
            elif block.family == "motion" and words[-1] == "move":
                moves = things[" ".join(words[2:4])].path != "still"
                assert names[block.answer[0]] == ("yes" if moves else "no")
                checked += 1
    assert checked > 10


def test_visual_tokens_show_what_the_owner_map_says() -> None:
    clip = generate_clip(5, questions_per_family=0)
    owners, priorities = cell_owners(clip)
    assert owners.shape == priorities.shape == (VIDEO_TOKENS,)
    pixels = clip.owners.shape[1] // CELLS
    for number, item in enumerate(clip.objects):
        for frame, center in enumerate(item.centers):
            mine = np.flatnonzero(owners[frame * FRAME_TOKENS : (frame + 1) * FRAME_TOKENS] == number)
            if center is None:
                assert not len(mine)
                continue
            cell = int(center[1] / pixels) * CELLS + int(center[0] / pixels)
            assert cell in mine and priorities[frame * FRAME_TOKENS + cell] == 2
            for row, column in zip(mine // CELLS, mine % CELLS, strict=True):
                part = clip.owners[frame, row * pixels : (row + 1) * pixels, column * pixels : (column + 1) * pixels]
                assert (part == number).any()


def test_a_clip_played_backwards_turns_times_around_and_nothing_else() -> None:
    clip = generate_clip(7, questions_per_family=0)
    other = reverse(clip)
    owners, priorities = cell_owners(clip)
    flipped = [values.reshape(FRAMES, -1)[::-1].ravel() for values in (owners, priorities)]
    assert all(np.array_equal(a, b) for a, b in zip(cell_owners(other), flipped, strict=True))
    for before, after in zip((*clip.objects, *clip.signs), (*other.objects, *other.signs), strict=True):
        first, last, x0, y0, x1, y1, moves = trace(before)
        assert trace(after) == (FRAMES - 1 - last, FRAMES - 1 - first, x1, y1, x0, y0, moves)
    again = reverse(other)
    assert np.array_equal(again.frames, clip.frames) and again.objects == clip.objects


@pytest.mark.generator
def test_features_of_a_clip_played_backwards_are_what_the_tower_would_give(eyes: Eyes, example: ClipExample) -> None:
    turned = backwards(example)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        seen = eyes(pixel_values(turned.clip.frames.copy()))
    assert torch.allclose(turned.features, pool(seen.float()).half(), atol=1e-2)


def test_tracks_say_where_a_thing_has_come_from() -> None:
    clip = generate_clip(5, questions_per_family=0)
    owners, _ = cell_owners(clip)
    tracks, names = cell_tracks(clip, owners), [item.name for item in clip.objects]
    known = np.flatnonzero(~np.isnan(tracks[:, 0]))
    assert len(known) > 20 and (owners[known] >= 0).all()
    for token in known:
        item, frame = clip.objects[owners[token]], token // FRAME_TOKENS
        first, x, y, across, down, moved = tracks[token]
        center = item.centers[frame]
        assert names.count(item.name) == 1 and center is not None
        assert first == item.shown[0] <= frame
        assert np.allclose([x + across, y + down], np.array(center) / 336, atol=1e-6)
        assert moved == (item.path != "still" and frame > first)


def test_traces_stand_behind_the_words_that_name_things() -> None:
    clip = generate_clip(5)
    blocks = [clip_block(q.text, q.answer, q.family, clip) for q in clip.questions]
    length = sum(len(b.question) + len(b.answer) for b in blocks) + 4
    packed, traces = pack([list(blocks)], length), pack_traces([list(blocks)], length)
    assert sum(bool(block.traces) for block in blocks) > 3
    for number, (block, question) in enumerate(zip(blocks, clip.questions, strict=True)):
        at = packed.blocks[0] == number
        known = ~np.isnan(traces[0, at, 0])
        assert set(packed.offsets[0, at][known]) == set(block.traces)
        if question.family == "order":
            assert len(block.traces) == 2
        for place in named_traces(question.text, clip):
            word = question.text.rstrip("?").split()[place]
            assert word in (*SHAPES, "object", "sign", "handwritten") and word not in COLORS
    assert np.isnan(traces[0, packed.blocks[0] == -1]).all()


def test_pooling_is_the_stock_pooling() -> None:
    features = torch.randn(FRAMES, GRID * GRID, 6)
    stock = build_video_model().model.vision_resampler(features)
    assert torch.allclose(pool(features), stock.flatten(0, 1), atol=1e-6)


def test_losses_of_the_heads_are_zero_only_for_what_is_true() -> None:
    target = torch.tensor([[[2.0, 5.0, 0.1, 0.3, 0.6, 0.9, 1.0]]])
    wide = torch.full((1, 1, 2 * FRAMES + 4 * CELLS + 5), -30.0)
    wide[..., [2, FRAMES + 5]] = 30.0
    for i, value in enumerate((0.1, 0.3, 0.6, 0.9)):
        wide[..., 2 * FRAMES + i * CELLS + int(value * CELLS)] = 30.0
        wide[..., 2 * FRAMES + 4 * CELLS + i] = value
    wide[..., -1] = 30.0
    assert trace_loss(wide, target) < 1e-3
    wide[..., -1] = -30.0
    assert trace_loss(wide, target) > 1.0
    assert trace_loss(wide, target * torch.nan) == 0.0

    track = torch.tensor([[[3.0, 0.2, 0.4, -0.1, 0.5, 0.0]]])
    told = torch.cat([torch.full((1, 1, FRAMES), -30.0), track[..., 1:]], dim=-1)
    told[..., 3], told[..., -1] = 30.0, -30.0
    assert track_loss(told, track) == pytest.approx(0.0, abs=1e-6)
    told[..., FRAMES] += 1.0
    assert track_loss(told, track) > 0.5

    visible = np.array([[0, FRAME_TOKENS + CELLS + 3]])
    places, frames = torch.full((1, 2, 2 * CELLS), -30.0), torch.full((1, 2, FRAMES), -30.0)
    places[0, [0, 0, 1, 1], [0, CELLS, 1, CELLS + 3]] = 30.0
    frames[0, [0, 1], [0, 1]] = 30.0
    assert where_loss(places, frames, visible) == pytest.approx(0.0, abs=1e-6)
    assert where_loss(places, frames.roll(1, -1), visible) > 10


def test_a_source_uses_every_clip_six_times_by_turns_forwards_and_backwards(
    monkeypatch: pytest.MonkeyPatch, example: ClipExample
) -> None:
    seeds: list[int] = []

    def cheap(eyes: object, seed: int) -> ClipExample:
        seeds.append(seed)
        return ClipExample(generate_clip(seed, (96, 96), questions_per_family=0), example.features, *_owned(example))

    monkeypatch.setattr("training.video.watch", cheap)
    monkeypatch.setattr("training.video.backwards", lambda example: example)
    monkeypatch.setattr("training.video.REPLAY", 4)
    source = ClipSource(None, 0)  # type: ignore[arg-type]  # nothing looks
    used = [example.clip.seed for _ in range(24) for example in source.next(6)]
    counts = {seed: used.count(seed) for seed in seeds}
    assert len(seeds) == len(set(seeds)) and max(counts.values()) == 6
    assert all(counts[seed] == 6 for seed in seeds[:6])


def _owned(example: ClipExample) -> tuple[np.ndarray, np.ndarray]:
    return example.priorities, example.tracks


@pytest.mark.generator
def test_loss_falls(picture: LlavaForConditionalGeneration, example: ClipExample) -> None:
    features = example.features.float()
    task = VideoTask(features.mean(0), features.std(0) + 1e-4)
    task.load_picture_model(picture)
    matrices, rest = split_matrices(task, lambda name: "decoder.layers." in name)
    optimizers, rng = Optimizers(matrices, rest, 2e-3, 2e-3, decay=0.0), np.random.default_rng(0)
    seen = []
    for _ in range(9):
        loss = sum(step_losses(task, [example, backwards(example)], 128, rng), start=torch.zeros(()))
        loss.backward()
        optimizers.step(1.0)
        seen.append(float(loss.detach()))
    assert np.mean(seen[-2:]) < 0.6 * seen[0]


@pytest.mark.generator
@torch.no_grad()
def test_many_questions_in_one_sequence_equal_single_prompts(
    task: VideoTask, example: ClipExample, assembled: LlavaNextVideoForConditionalGeneration
) -> None:
    """Through the stock processor and the stock model: pooling, standardisation, positions and the mask are right."""
    processor, clip = build_video_processor(), generate_clip(5, questions_per_family=1)
    blocks = [clip_block(q.text, q.answer, q.family, clip) for q in clip.questions]
    packed = pack([list(blocks)], 90)
    positions, mask = positions_and_mask(np.arange(VIDEO_TOKENS)[None], packed, np.array([False]), VIDEO_TOKENS)
    out = task(example.features[None].float(), torch.from_numpy(packed.tokens), positions, mask)
    logits = task.head(out["text"])[0]
    for number in (0, len(blocks) - 1):
        text = f"USER: {VIDEO_TOKEN}\n{clip.questions[number].text} ASSISTANT:"
        inputs = processor(videos=[clip.frames], text=text, return_tensors="pt")
        assert int((inputs["input_ids"] == WORDS[VIDEO_TOKEN]).sum()) == VIDEO_TOKENS
        single = assembled(**inputs).logits[0, -1]
        at = np.flatnonzero((packed.blocks[0] == number) & (packed.labels[0] >= 0))[0]
        # The features of the training come from bfloat16 products.
        assert (single - logits[at]).abs().max() < 0.05 * single.std(), number


@pytest.mark.generator
@torch.no_grad()
def test_an_exported_folder_reloads_equal_and_answers(
    assembled: LlavaNextVideoForConditionalGeneration, folder: Path
) -> None:
    model, processor = load_video_folder(folder)
    stored = model.state_dict()
    for name, value in assembled.state_dict().items():
        assert torch.equal(stored[name], value.half().float()), name
    clip = generate_clip(HELD_OUT_SEEDS[0], (160, 120), questions_per_family=1)
    pixels = processor.video_processor([clip.frames], return_tensors="pt")["pixel_values_videos"][0]
    question = clip.questions[0]
    (good,) = check_clip(model, project_video(model, pixels), [question])
    assert (ask_video(model, processor, clip.frames, question.text) == question.answer) is good
