"""The demo tokenizer: lossless, the family's special tokens, and its chat format."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from demo.batches import prompt_ids, token_weights
from demo.tokenizer import SPECIAL_TOKENS, train_tokenizer
from demo.world import caption_of, make_scene


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(num_captions=600).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", [caption_of(make_scene(1, "heldout")), "naïve 雀 🐦\n\ttabs", ""])
def test_any_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_special_tokens_are_single_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = [tokenizer(token).input_ids for token in SPECIAL_TOKENS]
    assert all(len(one) == 1 for one in ids)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.decode([one for [one] in ids], skip_special_tokens=True) == ""


def test_words_of_the_world_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    text = caption_of(make_scene(1, "heldout"))
    assert len(tokenizer(text).input_ids) <= len(text.replace(",", " ,").replace(".", " .").split()) * 1.1


def test_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    parts = [{"type": "image"}, {"type": "video", "video": "a.mp4"}, {"type": "text", "text": "What is it?"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|video_pad|><|vision_end|>"
        "What is it?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_prompt_expands_the_video_placeholder(tokenizer: PreTrainedTokenizerFast) -> None:
    text = tokenizer.decode(prompt_ids(tokenizer, 3))
    assert text == (
        "<|im_start|>user\n<|vision_start|><|video_pad|><|video_pad|><|video_pad|><|vision_end|>"
        "Describe the video.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_fact_words_weigh_more(tokenizer: PreTrainedTokenizerFast) -> None:
    weights = token_weights(tokenizer)
    facts, glue = tokenizer(" red star left spins").input_ids, tokenizer(" the a.").input_ids
    assert weights[facts].min() > 3 * weights[glue].max()
