"""talk: the kept KV cache changes nothing but the cost."""

import io
import shutil
from pathlib import Path

import pytest
import torch

from llm.commands import talk
from llm.infer.generate import generate
from llm.infer.sampling import SamplingParams
from llm.tokenizer.chat_template import render

GREEDY = SamplingParams(temperature=0)


def conversation(folder: Path, **changes: object) -> talk.Conversation:
    model, tokenizer = talk.load(str(folder))
    options = {"max_new_tokens": 8, "sampling": GREEDY, "seed": 0} | changes
    return talk.Conversation(model, tokenizer, **options)  # type: ignore[arg-type]


def test_second_turn_equals_reading_the_whole_conversation_anew(model_folder: Path) -> None:
    talker = conversation(model_folder)
    talker.reply("hello", lambda _: None)
    answer_ids = talker.turns[0]
    talker.reply("and now", lambda _: None)
    tokenizer = talker.tokenizer
    question, _ = render(tokenizer, [{"role": "user", "content": "and now"}], add_generation_prompt=True)
    whole = [tokenizer.eot_id, *answer_ids, *question[1:]]
    stops = {tokenizer.eot_id, tokenizer.im_end_id}
    fresh = generate(
        talker.model, [whole], max_new_tokens=8, sampling=GREEDY, stop_ids=stops, generator=torch.Generator()
    ).tokens[0]
    written = talker.turns[1][len(question) - 1 :]
    assert written[: len(fresh)] == fresh


def test_turns_follow_the_chat_template(model_folder: Path) -> None:
    """With the model's answers replaced by a known text, the ids read are those of `render`."""
    talker = conversation(model_folder)
    for text in ("wizard", "witch"):
        script = iter([*talker.tokenizer.encode("old"), talker.tokenizer.im_end_id])
        talker._next = lambda _turn, script=script: next(script)  # type: ignore[method-assign]
        talker.reply(text, lambda _: None)
    messages = [
        message
        for text in ("wizard", "witch")
        for message in ({"role": "user", "content": text}, {"role": "assistant", "content": "old"})
    ]
    read = [talker.tokenizer.eot_id, *talker.turns[0], *talker.turns[1]]
    assert read == render(talker.tokenizer, messages)[0]
    assert int(talker.states[0].lengths_B) == len(read)


def test_oldest_turns_are_forgotten_when_the_context_is_full(model_folder: Path) -> None:
    talker = conversation(model_folder, max_new_tokens=20)
    for text in ("the old wizard", "the young witch", "hello", "the witch"):
        talker.reply(text, lambda _: None)
    assert 0 < len(talker.turns) < 4
    held = int(talker.states[0].lengths_B)
    assert held == 1 + sum(map(len, talker.turns))
    assert held <= talker.model.config.max_len


def test_message_too_long_for_the_context(model_folder: Path) -> None:
    talker = conversation(model_folder)
    with pytest.raises(ValueError, match="exceed the model's context of 95"):
        talker.reply("wizard " * 100, lambda _: None)
    talker.reply("hello", lambda _: None)
    assert len(talker.turns) == 1


def test_seed_decides_the_text(model_folder: Path) -> None:
    sampling = SamplingParams(temperature=1.0)
    first, again, other = (
        conversation(model_folder, sampling=sampling, seed=seed).reply("hello", lambda _: None)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_writer_never_shows_half_a_character(model_folder: Path) -> None:
    _, tokenizer = talk.load(str(model_folder))
    shown: list[str] = []
    writer = talk.Writer(tokenizer, shown.append)
    ids = tokenizer.encode("a山b")
    assert len(ids) == 5  # the character is three bytes, unknown to the merges
    for token in ids:
        writer.add(token)
    assert "".join(shown) == "a山b"
    assert not any("\ufffd" in piece for piece in shown)


def test_writer_shows_bytes_that_stay_broken_at_the_end(model_folder: Path) -> None:
    _, tokenizer = talk.load(str(model_folder))
    shown: list[str] = []
    writer = talk.Writer(tokenizer, shown.append)
    writer.add(tokenizer.encode("山")[0])
    assert shown == []
    assert writer.flush() == "\ufffd"
    assert shown == ["\ufffd"]


def test_chat_reads_piped_input(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model_folder.parent.parent)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\n/reset\nhello\n/nonsense\n/quit\nnever read\n"))
    talk.chat("tiny", max_new_tokens=6, sampling=GREEDY, seed=0)
    out, err = capsys.readouterr()
    before, after = out.split("(forgotten)")
    assert len(before) > 1
    assert after == "\n" + before
    assert "unknown command /nonsense" in err


def test_generate_prints_prompt_and_completion(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk.generate(str(model_folder), "the old", chat=False, max_new_tokens=5, sampling=GREEDY, seed=0)
    assert capsys.readouterr().out.startswith("the old")
    talk.generate(str(model_folder), "the old", chat=True, max_new_tokens=5, sampling=GREEDY, seed=0)
    assert not capsys.readouterr().out.startswith("the old")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "no such model folder; run: dvc repro"),
        (lambda f: (f / "config.json").unlink(), "expected config.json and model.safetensors"),
        (lambda f: (f / "config.json").write_text('{"model_type": "llama"}'), "format is 'llama'"),
        (lambda f: (f / "config.json").write_text('{"format": '), "damaged JSON"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08\0\0\0"), "damaged or truncated"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "no such tokenizer folder"),
        (lambda f: (f / "tokenizer" / "extra").write_text("x"), "not the one the model was trained with"),
    ],
    ids=["missing", "no config", "foreign", "half json", "half weights", "no tokenizer", "other tokenizer"],
)
def test_damaged_folder_is_one_clear_line(
    model_folder: Path, tmp_path: Path, damage: object, message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    damage(folder)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message) as caught:
        talk.load(str(folder))
    assert "\n" not in str(caught.value)


def test_reward_model_cannot_talk(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reward"
    shutil.copytree(model_folder, folder)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"stage": "sft"', '"stage": "reward"'))
    with pytest.raises(ValueError, match="a reward model scores answers"):
        talk.load(str(folder))
